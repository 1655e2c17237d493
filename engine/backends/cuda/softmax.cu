// softmax, softmax_backward. A row of up to 16384 columns is read once and kept in registers (quads.h); a
// wider one is read twice, the first time with a running maximum, of which the second read finds much in L2.
#include <cfloat>

#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/quads.h"

namespace pare::cuda {
namespace {

template <int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>) softmax_kernel(SoftmaxArgs a) {
  using Index = RowIndex<Quads>;
  const int64_t row = int64_t(blockIdx.x) * kRowsOf<Lanes> + int(threadIdx.x) / Lanes % kRowsOf<Lanes>;
  const Index columns = row < a.rows ? Index(a.columns) : Index(0);
  // Columns that do not exist are as unlikely as can be. The maximum starts at the lowest finite number, so
  // that a score of -infinity has the probability 0.
  Row<Lanes, Quads, Wide> x(a.x + row * a.x_stride, columns, -INFINITY);
  float largest = -FLT_MAX, sum = 0.0f;
  if constexpr (Quads > 0) {
    x.each([&](Index, const Quad& q) {
#pragma unroll
      for (int j = 0; j < kQuad; ++j) largest = fmaxf(largest, q.v[j]);
    });
    largest = row_max<Lanes>(largest, -FLT_MAX);
    x.each([&](Index, Quad& q) {
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        q.v[j] = expf(q.v[j] - largest);
        sum += q.v[j];
      }
    });
    sum = row_sum<Lanes>(sum);
  } else {
    x.each([&](Index, const Quad& q) {
      const float high = fmaxf(fmaxf(q.v[0], q.v[1]), fmaxf(q.v[2], q.v[3]));
      if (high > largest) {
        sum *= expf(largest - high);
        largest = high;
      }
#pragma unroll
      for (int j = 0; j < kQuad; ++j) sum += expf(q.v[j] - largest);
    });
    const float own = largest;
    largest = row_max<Lanes>(own, -FLT_MAX);
    sum = row_sum<Lanes>(sum * expf(own - largest));
  }
  const float inverse = 1.0f / sum;
  x.each([&](Index c, Quad& q) {
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      const float weight = Quads > 0 ? q.v[j] : expf(q.v[j] - largest);
      q.v[j] = weight * inverse;
    }
    store_quad<Wide>(a.out + row * a.out_stride, c, columns, q);
  });
}

// dx = out (dout - sum(out dout)); the sum in double, a quad at a time
template <int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>) softmax_backward_kernel(SoftmaxBackwardArgs a) {
  using Index = RowIndex<Quads>;
  const int64_t row = int64_t(blockIdx.x) * kRowsOf<Lanes> + int(threadIdx.x) / Lanes % kRowsOf<Lanes>;
  const Index columns = row < a.rows ? Index(a.columns) : Index(0);
  const float* out = a.out + row * a.out_stride;
  Row<Lanes, Quads, Wide> dout(a.dout + row * a.dout_stride, columns);
  double sum = 0.0;
  dout.each([&](Index c, const Quad& d) {
    const Quad p = load_quad<Wide>(out, c, columns);
    sum += double(fmaf(p.v[0], d.v[0], p.v[1] * d.v[1]) + fmaf(p.v[2], d.v[2], p.v[3] * d.v[3]));
  });
  const float mean = float(row_sum<Lanes>(sum));
  dout.each([&](Index c, Quad& d) {
    const Quad p = load_quad<Wide>(out, c, columns);  // from L1, where the row fits into it
#pragma unroll
    for (int j = 0; j < kQuad; ++j) d.v[j] = p.v[j] * (d.v[j] - mean);
    store_quad<Wide>(a.dx + row * a.dx_stride, c, columns, d);
  });
}

}  // namespace

void CudaBackend::softmax(const SoftmaxArgs& a) {
  const bool is_wide = rows_are_wide(a.x, a.x_stride) && rows_are_wide(a.out, a.out_stride);
  with_row_shape(a.columns, [&]<int Lanes, int Quads>() {
    const LaunchShape shape{.grid = blocks_for(a.rows, kRowsOf<Lanes>), .block = kThreadsOf<Lanes>};
    context_->launch("softmax",
                     is_wide ? softmax_kernel<Lanes, Quads, true> : softmax_kernel<Lanes, Quads, false>,
                     shape, a);
  });
}

void CudaTraining::softmax_backward(const SoftmaxBackwardArgs& a) {
  const bool is_wide = rows_are_wide(a.out, a.out_stride) && rows_are_wide(a.dout, a.dout_stride) &&
                       rows_are_wide(a.dx, a.dx_stride);
  with_row_shape(a.columns, [&]<int Lanes, int Quads>() {
    const LaunchShape shape{.grid = blocks_for(a.rows, kRowsOf<Lanes>), .block = kThreadsOf<Lanes>};
    context_.launch(
        "softmax_backward",
        is_wide ? softmax_backward_kernel<Lanes, Quads, true> : softmax_backward_kernel<Lanes, Quads, false>,
        shape, a);
  });
}

}  // namespace pare::cuda
