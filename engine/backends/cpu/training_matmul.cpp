// The gradients of a matrix product: the blocked product of the forward, with operands that lie the other way
// round.
//
//   dx      [m, k] (+)= dout [m, n]   W [n, k]: the panels of "weights" are rows of W as they are
//   dweight [n, k]  += dout^T [n, m]  x [m, k]: the same, and the rows are columns of dout
//
// The packed rows of long sums and of wide layers are made a part at a time, so that the workspace of an
// output head is not another copy of its logits. Parts are cut by shape alone.
#include <algorithm>
#include <array>
#include <cstddef>

#include "engine/backends/cpu/matmul/gemm.h"
#include "engine/backends/cpu/matmul/level.h"
#include "engine/backends/cpu/training_class.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"

namespace pare::cpu {
namespace {

// Terms of a sum, and rows of a weight gradient, that are packed at a time.
constexpr int64_t kTermsAtOnce = 2048, kRowsAtOnce = 2048;

size_t form_of(DType dtype) {
  PARE_ASSERT(dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16,
              "[matmul_input_backward] weight of dtype {}", dtype_name(dtype));
  if (dtype == DType::f32) return 0;
  return dtype == DType::bf16 ? 1 : 2;
}

// Panels of a matrix [terms, columns]: what gemm() takes for W [columns, terms].
struct RowsAsTerms {
  const std::byte* data;
  int64_t element_bytes, stride;
  void (*copy)(const void* weight, int64_t stride, int64_t columns, int64_t kc, float* panel);

  static void fill(const void* context, int64_t n0, int64_t columns, int64_t k0, int64_t kc, float* panel) {
    const auto& from = *static_cast<const RowsAsTerms*>(context);
    from.copy(from.data + (k0 * from.stride + n0) * from.element_bytes, from.stride, columns, kc, panel);
  }
};

// dbias += the sum of each column of dout, from the first row to the last.
void add_column_sums(const MatmulWeightBackwardArgs& a) {
  constexpr int64_t kColumns = 64;
  parallel_ranges(a.n, kColumns, [&](int64_t begin, int64_t end) {
    std::array<double, size_t{kColumns}> sums = {};
    const int64_t columns = end - begin;
    for (int64_t row = 0; row < a.m; ++row) {
      const float* dout = a.dout + row * a.dout_stride + begin;
      for (int64_t i = 0; i < columns; ++i) sums[size_t(i)] += double(dout[i]);
    }
    for (int64_t i = 0; i < columns; ++i) {
      a.dbias[begin + i] = float(double(a.dbias[begin + i]) + sums[size_t(i)]);
    }
  });
}

}  // namespace

size_t CpuTraining::matmul_input_backward_workspace_bytes(int64_t m, int64_t n, int64_t) const {
  return gemm_workspace_bytes(m, std::min(n, kTermsAtOnce));
}

void CpuTraining::matmul_input_backward(const MatmulInputBackwardArgs& a) {
  const LevelKernels& level = level_kernels(isa_);
  const int64_t element_bytes = dtype_bytes(a.weight_dtype);
  for (int64_t n = 0; n < a.n; n += kTermsAtOnce) {
    const RowsAsTerms weight{.data = static_cast<const std::byte*>(a.weight) + n * a.k * element_bytes,
                             .element_bytes = element_bytes,
                             .stride = a.k,
                             .copy = level.copy_panel[form_of(a.weight_dtype)]};
    gemm(level,
         {.x = a.dout + n,
          .bias = nullptr,
          .out = a.dx,
          .m = a.m,
          .n = a.k,
          .k = std::min(kTermsAtOnce, a.n - n),
          .x_stride = a.dout_stride,
          .out_stride = a.dx_stride,
          .accumulate = a.accumulate || n > 0,
          .workspace = a.workspace},
         {.fill = RowsAsTerms::fill, .context = &weight});
  }
}

size_t CpuTraining::matmul_weight_backward_workspace_bytes(int64_t m, int64_t n, int64_t) const {
  return gemm_workspace_bytes(std::min(n, kRowsAtOnce), std::min(m, kTermsAtOnce));
}

void CpuTraining::matmul_weight_backward(const MatmulWeightBackwardArgs& a) {
  const LevelKernels& level = level_kernels(isa_);
  for (int64_t n = 0; n < a.n; n += kRowsAtOnce) {
    for (int64_t m = 0; m < a.m; m += kTermsAtOnce) {
      const RowsAsTerms x{.data = reinterpret_cast<const std::byte*>(a.x + m * a.x_stride),
                          .element_bytes = sizeof(float),
                          .stride = a.x_stride,
                          .copy = level.copy_panel[0]};
      gemm(level,
           {.x = a.dout + m * a.dout_stride + n,
            .bias = nullptr,
            .out = a.dweight + n * a.k,
            .m = std::min(kRowsAtOnce, a.n - n),
            .n = a.k,
            .k = std::min(kTermsAtOnce, a.m - m),
            .x_stride = a.dout_stride,
            .out_stride = a.k,
            .accumulate = true,
            .workspace = a.workspace,
            .x_is_transposed = true},
           {.fill = RowsAsTerms::fill, .context = &x});
    }
  }
  if (a.dbias != nullptr) add_column_sums(a);
}

}  // namespace pare::cpu
