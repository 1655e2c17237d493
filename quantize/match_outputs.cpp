#include "quantize/match_outputs.h"

#include <algorithm>

#include "engine/core/parallel.h"
#include "engine/tensor/ops.h"

namespace pare {

Result<Tensor> matched_weight(const Tensor& weight, const Tensor& cross, const Tensor& moment,
                              const HessianFactor& factor) {
  const int64_t out = weight.size(0), in = weight.size(1);
  // (C - H)^T, since the product wants [n, k]: out = W (C - H), k runs over the rows of C.
  PARE_TRY(Tensor turned, Tensor::allocate(DType::f32, {in, in}));
  float* t = turned.mutable_data<float>();
  const float* c = cross.data<float>();
  const float* h = moment.data<float>();
  parallel_ranges(in, 32, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t k = 0; k < in; ++k) t[row * in + k] = c[k * in + row] - h[k * in + row];
  });
  PARE_TRY(Workspace workspace,
           Workspace::reserve(ops::matmul_workspace_bytes(Device::cpu(), out, in, in), Device::cpu()));
  PARE_TRY(Tensor first, Tensor::allocate(DType::f32, {out, in}));
  PARE_TRY(Tensor second, Tensor::allocate(DType::f32, {out, in}));
  PARE_TRY(Tensor result, Tensor::allocate(DType::f32, {out, in}));
  ops::matmul(weight, turned, Tensor(), /*accumulate=*/false, first, workspace);
  // (H + d)^-1 = U^T U: first by U^T, then by U.
  ops::matmul(first, factor.upper, Tensor(), /*accumulate=*/false, second, workspace);
  PARE_TRY(const Tensor lower, transposed(factor.upper));
  std::copy_n(weight.data<float>(), out * in, result.mutable_data<float>());
  ops::matmul(second, lower, Tensor(), /*accumulate=*/true, result, workspace);
  return result;
}

}  // namespace pare
