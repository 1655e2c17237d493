// Rounding tokens to codes (integer_product.h).
#include "engine/backends/cuda/int8_rows.cuh"

namespace pare::cuda {
namespace {

template <int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>)
    round_kernel(RoundProblem p, const float* x, int64_t m, int64_t x_stride) {
  const int64_t token = own_row<Lanes>();
  const bool is_real = token < m;
  int32_t* sums = segment_sums<Lanes>(p);
  Row<Lanes, Quads, Wide> row(x + token * x_stride, is_real ? p.segments.in : 0);
  round_row<Lanes>(p, row, token, is_real, sums);
}

}  // namespace

void int8_round(Context& context, const float* x, int64_t m, int64_t x_stride, const PackedMatrix& weight,
                void* workspace) {
  const RoundProblem p = round_problem_of(weight, m, workspace);
  const bool is_wide = rows_are_wide(x, x_stride);
  with_row_shape(weight.in, [&]<int Lanes, int Quads>() {
    context.launch("int8_round",
                   is_wide ? round_kernel<Lanes, Quads, true> : round_kernel<Lanes, Quads, false>,
                   round_shape<Lanes>(p, m), p, x, m, x_stride);
  });
}

}  // namespace pare::cuda
