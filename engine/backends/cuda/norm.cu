// rms_norm, layer_norm. Memory-bound: a row is read once and kept in registers (quads.h); sums in float, in a
// tree of fixed shape.
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/quads.h"

namespace pare::cuda {
namespace {

template <int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>) rms_norm_kernel(RmsNormArgs a) {
  using Index = RowIndex<Quads>;
  const int64_t row = int64_t(blockIdx.x) * kRowsOf<Lanes> + int(threadIdx.x) / Lanes % kRowsOf<Lanes>;
  const Index channels = row < a.tokens ? Index(a.channels) : Index(0);
  Row<Lanes, Quads, Wide> x(a.x + row * a.x_stride, channels);
  float sum = 0.0f;
  x.each([&](Index, const Quad& q) {
#pragma unroll
    for (int j = 0; j < kQuad; ++j) sum = fmaf(q.v[j], q.v[j], sum);
  });
  const float scale = 1.0f / sqrtf(row_sum<Lanes>(sum) / float(a.channels) + a.eps);
  const float plus = a.gain_plus_one ? 1.0f : -0.0f;  // -0 leaves the gain as it is, signed zeros too
  x.each([&](Index c, const Quad& q) {
    if (c >= channels) return;
    const Quad gain = load_quad<Wide>(a.gain, c, channels);
    Quad out;
#pragma unroll
    for (int j = 0; j < kQuad; ++j) out.v[j] = q.v[j] * scale * (gain.v[j] + plus);
    store_quad<Wide>(a.out + row * a.out_stride, c, channels, out);
  });
}

// Two passes over the registers: the mean first, so that a large mean does not cancel.
template <int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>) layer_norm_kernel(LayerNormArgs a) {
  using Index = RowIndex<Quads>;
  const int64_t row = int64_t(blockIdx.x) * kRowsOf<Lanes> + int(threadIdx.x) / Lanes % kRowsOf<Lanes>;
  const Index channels = row < a.tokens ? Index(a.channels) : Index(0);
  Row<Lanes, Quads, Wide> x(a.x + row * a.x_stride, channels);
  float sum = 0.0f;
  x.each([&](Index, const Quad& q) { sum += (q.v[0] + q.v[1]) + (q.v[2] + q.v[3]); });
  const float mean = row_sum<Lanes>(sum) / float(a.channels);
  float squares = 0.0f;
  x.each([&](Index c, const Quad& q) {
    const int inside = inside_of(c, channels);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      const float distance = j < inside ? q.v[j] - mean : 0.0f;
      squares = fmaf(distance, distance, squares);
    }
  });
  const float scale = 1.0f / sqrtf(row_sum<Lanes>(squares) / float(a.channels) + a.eps);
  x.each([&](Index c, const Quad& q) {
    if (c >= channels) return;
    const Quad gain = load_quad<Wide>(a.gain, c, channels);
    Quad bias{};
    if (a.bias != nullptr) bias = load_quad<Wide>(a.bias, c, channels);
    Quad out;
#pragma unroll
    for (int j = 0; j < kQuad; ++j) out.v[j] = fmaf((q.v[j] - mean) * scale, gain.v[j], bias.v[j]);
    store_quad<Wide>(a.out + row * a.out_stride, c, channels, out);
  });
}

}  // namespace

void CudaBackend::rms_norm(const RmsNormArgs& a) {
  const bool is_wide =
      rows_are_wide(a.x, a.x_stride) && rows_are_wide(a.out, a.out_stride) && rows_are_wide(a.gain, 0);
  with_row_shape(a.channels, [&]<int Lanes, int Quads>() {
    const LaunchShape shape{.grid = blocks_for(a.tokens, kRowsOf<Lanes>), .block = kThreadsOf<Lanes>};
    context_->launch("rms_norm",
                     is_wide ? rms_norm_kernel<Lanes, Quads, true> : rms_norm_kernel<Lanes, Quads, false>,
                     shape, a);
  });
}

void CudaBackend::layer_norm(const LayerNormArgs& a) {
  const bool is_wide = rows_are_wide(a.x, a.x_stride) && rows_are_wide(a.out, a.out_stride) &&
                       rows_are_wide(a.gain, 0) && (a.bias == nullptr || rows_are_wide(a.bias, 0));
  with_row_shape(a.channels, [&]<int Lanes, int Quads>() {
    const LaunchShape shape{.grid = blocks_for(a.tokens, kRowsOf<Lanes>), .block = kThreadsOf<Lanes>};
    context_->launch("layer_norm",
                     is_wide ? layer_norm_kernel<Lanes, Quads, true> : layer_norm_kernel<Lanes, Quads, false>,
                     shape, a);
  });
}

}  // namespace pare::cuda
