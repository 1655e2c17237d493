// Rounded inputs in training: the grid of a row is found by the code that rounds for integer products
// (int8_rows.cuh), so that a model trains on the numbers that it will multiply.
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/int8_rows.cuh"

namespace pare::cuda {
namespace {

RoundProblem problem_of(const ActivationQuant& activation) {
  RoundProblem p;
  p.to = {};
  p.is_static = activation.mode == ActivationQuant::Mode::static_tensor;
  p.is_symmetric = activation.symmetric;
  p.bottom = activation.lowest_code(), p.top = activation.highest_code();
  p.scale = 0.0f;  // *step
  p.zero_point = activation.zero_point;
  return p;
}

// What a kernel sees of the arguments: no class with functions of the host.
struct InputRows {
  const float* x;
  float* out;
  const float* step;
  int64_t rows, columns, x_stride, out_stride;
};

template <int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>) round_inputs_kernel(InputRows a, RoundProblem p) {
  using Index = RowIndex<Quads>;
  const int64_t row = own_row<Lanes>();
  const Index columns = row < a.rows ? Index(a.columns) : Index(0);
  Row<Lanes, Quads, Wide> x(a.x + row * a.x_stride, columns);
  float low = 0.0f, high = 0.0f;
  bool is_finite = true;
  x.each([&](Index, const Quad& q) {  // beyond the end: zeros, which every range holds
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      is_finite = is_finite && fabsf(q.v[j]) <= FLT_MAX;
      low = fminf(low, q.v[j]);
      high = fmaxf(high, q.v[j]);
    }
  });
  low = -row_max<Lanes>(-low, 0.0f);
  high = row_max<Lanes>(high, 0.0f);
  is_finite = row_max<Lanes>(is_finite ? 0.0f : 1.0f, 0.0f) == 0.0f;
  if (a.step != nullptr) p.scale = *a.step;
  const RoundedRow grid = grid_of(p, low, high);
  const float bottom = float(p.bottom - grid.zero_point), top = float(p.top - grid.zero_point);
  x.each([&](Index c, const Quad& q) {
    if (c >= columns) return;
    Quad out;
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      // + 0: no negative zero, as on hosts
      const float nearest = rintf(fminf(fmaxf(q.v[j] / grid.scale, bottom), top)) + 0.0f;
      out.v[j] = is_finite ? grid.scale * nearest : nanf("");
    }
    store_quad<Wide>(a.out + row * a.out_stride, c, columns, out);
  });
}

template <int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>)
    round_inputs_backward_kernel(InputRows a, float bottom, float top, double* sums) {
  using Index = RowIndex<Quads>;
  const int64_t row = own_row<Lanes>();
  const bool is_real = row < a.rows;
  const Index columns = is_real ? Index(a.columns) : Index(0);
  const float scale = *a.step;
  Row<Lanes, Quads, Wide> x(a.x + row * a.x_stride, columns);
  double sum = 0.0;
  x.each([&](Index c, const Quad& q) {
    if (c >= columns) return;
    float* to = a.out + row * a.out_stride;
    Quad d = load_quad<Wide>(to, c, columns);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      const float quotient = q.v[j] / scale;
      const float nearest = rintf(fminf(fmaxf(quotient, bottom - 1.0f), top + 1.0f));
      const bool is_below = nearest<bottom, is_above = nearest> top;
      const float slope = is_below ? bottom : (is_above ? top : nearest - quotient);
      sum += double(d.v[j]) * double(slope);
      if (is_below || is_above) d.v[j] = 0.0f;
    }
    store_quad<Wide>(to, c, columns, d);
  });
  sum = row_sum<Lanes>(sum);
  if (is_real && int(threadIdx.x) % Lanes == 0) sums[row] = sum;
}

constexpr int kSumThreads = 1024;
__global__ void __launch_bounds__(kSumThreads)
    step_gradient_kernel(const double* sums, int64_t count, double share, float* dstep) {
  double sum = 0.0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) sum += sums[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *dstep = float(double(*dstep) + share * sum);
}

}  // namespace

void CudaTraining::round_inputs(const RoundInputsArgs& a) {
  const InputRows rows{.x = a.x,
                       .out = a.out,
                       .step = a.step,
                       .rows = a.rows,
                       .columns = a.columns,
                       .x_stride = a.x_stride,
                       .out_stride = a.out_stride};
  const bool is_wide = rows_are_wide(a.x, a.x_stride) && rows_are_wide(a.out, a.out_stride);
  const RoundProblem p = problem_of(a.activation);
  with_row_shape(a.columns, [&]<int Lanes, int Quads>() {
    context_.launch(
        "round_inputs",
        is_wide ? round_inputs_kernel<Lanes, Quads, true> : round_inputs_kernel<Lanes, Quads, false>,
        {.grid = blocks_for(a.rows, kRowsOf<Lanes>), .block = kThreadsOf<Lanes>}, rows, p);
  });
}

void CudaTraining::round_inputs_backward(const RoundInputsBackwardArgs& a) {
  auto* sums = context_.scratch_of<double>(a.rows);
  if (sums == nullptr) return;
  const InputRows rows{.x = a.x,
                       .out = a.dx,
                       .step = a.step,
                       .rows = a.rows,
                       .columns = a.columns,
                       .x_stride = a.x_stride,
                       .out_stride = a.dx_stride};
  const auto bottom = float(a.activation.lowest_code() - a.activation.zero_point),
             top = float(a.activation.highest_code() - a.activation.zero_point);
  const bool is_wide = rows_are_wide(a.x, a.x_stride) && rows_are_wide(a.dx, a.dx_stride);
  with_row_shape(a.columns, [&]<int Lanes, int Quads>() {
    context_.launch("round_inputs_backward",
                    is_wide ? round_inputs_backward_kernel<Lanes, Quads, true>
                            : round_inputs_backward_kernel<Lanes, Quads, false>,
                    {.grid = blocks_for(a.rows, kRowsOf<Lanes>), .block = kThreadsOf<Lanes>}, rows, bottom,
                    top, sums);
  });
  context_.launch("step_gradient", step_gradient_kernel, {.grid = 1, .block = kSumThreads}, sums, a.rows,
                  a.share, a.dstep);
}

}  // namespace pare::cuda
