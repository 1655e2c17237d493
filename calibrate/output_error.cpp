#include "calibrate/output_error.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "calibrate/device_sweep.h"
#include "engine/core/parallel.h"
#include "engine/tensor/ops.h"
#include "engine/tensor/transfer.h"

namespace pare {

Result<double> output_energy(const Tensor& matrix, const Tensor& moment) {
  const int64_t out = matrix.size(0), in = matrix.size(1);
  PARE_ASSERT(moment.size(0) == in && moment.size(1) == in, "[output_error] moment {} for {} inputs",
              moment.shape().text(), in);
  if (!moment.device().is_host()) {
    PARE_TRY(const Tensor there, moved(matrix, moment.device()));
    return device_energy(there, Tensor(), moment);
  }
  constexpr int64_t kRows = 1024;  // at a time, so that the product stays small beside the matrix
  const int64_t rows_at_once = std::min(kRows, out);
  PARE_TRY(Tensor product, Tensor::allocate(DType::f32, {rows_at_once, in}));
  PARE_TRY(
      Workspace workspace,
      Workspace::reserve(ops::matmul_workspace_bytes(Device::cpu(), rows_at_once, in, in), Device::cpu()));
  std::vector<double> sums(static_cast<size_t>(out));
  for (int64_t begin = 0; begin < out; begin += kRows) {
    const int64_t end = std::min(out, begin + kRows);
    Tensor part = product.rows(0, end - begin);
    const Tensor rows = matrix.rows(begin, end);
    ops::matmul(rows, moment, Tensor(), /*accumulate=*/false, part, workspace);  // H is symmetric
    parallel_ranges(end - begin, 16, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const float* a = rows.data<float>() + row * rows.row_stride();
        const float* b = part.data<float>() + row * in;
        double sum = 0.0;
        for (int64_t i = 0; i < in; ++i) sum += double(a[i]) * double(b[i]);
        sums[size_t(begin + row)] = sum;
      }
    });
  }
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return std::max(total, 0.0);  // H is positive semidefinite; rounding may say otherwise
}

Result<double> error_energy(const Tensor& weight, const Tensor& restored, const Tensor& moment) {
  if (!moment.device().is_host()) {
    PARE_TRY(const Tensor a, moved(weight, moment.device()));
    PARE_TRY(const Tensor b, moved(restored, moment.device()));
    return device_energy(a, b, moment);
  }
  PARE_TRY(Tensor difference, Tensor::allocate(DType::f32, weight.shape()));
  const int64_t out = weight.size(0), in = weight.size(1);
  float* d = difference.mutable_data<float>();
  const float* w = weight.data<float>();
  const float* r = restored.data<float>();
  parallel_ranges(out * in, 65536, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) d[i] = w[i] - r[i];
  });
  return output_energy(difference, moment);
}

Result<double> relative_output_error(const Tensor& weight, const Tensor& restored, const Tensor& moment) {
  PARE_TRY(const double error, error_energy(weight, restored, moment));
  PARE_TRY(const double energy, output_energy(weight, moment));
  return energy > 0.0 ? std::sqrt(error / energy) : 0.0;
}

}  // namespace pare
