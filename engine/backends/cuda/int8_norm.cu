// A norm and the rounding behind it: the row is read once and kept in registers, so that writing and reading
// it as floats is saved.
#include "engine/backends/cuda/int8_rows.cuh"

namespace pare::cuda {
namespace {

// A row that registers do not hold: made anew in every pass.
template <typename From, typename Make>
struct Again {
  From& x;
  const Make& make;
  template <typename Visit>
  __device__ __forceinline__ void each(Visit visit) {
    x.each([&](int64_t c, const Quad& q) { visit(c, make(c, q)); });
  }
};

// Codes of make(c, quad) for the quads of x, and the values themselves where `out` is wanted. out may be x:
// every thread reads and writes its own quads.
template <int Lanes, int Quads, bool Wide, typename Make>
__device__ __forceinline__ void round_made(const RoundProblem& p, Row<Lanes, Quads, Wide>& x, int64_t token,
                                           bool is_real, int32_t* sums, float* out, const Make& make) {
  using Index = RowIndex<Quads>;
  const Index channels = is_real ? Index(p.segments.in) : Index(0);
  if constexpr (Quads > 0) {
    x.each([&](Index c, Quad& q) {
      q = make(c, q);
      if (out != nullptr && c < channels) store_quad<Wide>(out, c, channels, q);
    });
    round_row<Lanes>(p, x, token, is_real, sums);
  } else {
    Again<Row<Lanes, Quads, Wide>, Make> again{x, make};
    round_row<Lanes>(p, again, token, is_real, sums);
    if (out == nullptr) return;
    x.each([&](Index c, const Quad& q) { store_quad<Wide>(out, c, channels, make(c, q)); });
  }
}

// The arithmetic of both norms is that of norm.cu, so that the codes are those of its results.
template <int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>) rms_norm_round_kernel(RoundProblem p, RmsNormArgs a) {
  const int64_t token = own_row<Lanes>();
  const bool is_real = token < a.tokens;
  using Index = RowIndex<Quads>;
  const Index channels = is_real ? Index(a.channels) : Index(0);
  int32_t* sums = segment_sums<Lanes>(p);
  Row<Lanes, Quads, Wide> x(a.x + token * a.x_stride, channels);
  float sum = 0.0f;
  x.each([&](Index, const Quad& q) {
#pragma unroll
    for (int j = 0; j < kQuad; ++j) sum = fmaf(q.v[j], q.v[j], sum);
  });
  const float scale = 1.0f / sqrtf(row_sum<Lanes>(sum) / float(a.channels) + a.eps);
  const float plus = a.gain_plus_one ? 1.0f : -0.0f;  // -0 leaves the gain as it is, signed zeros too
  float* to = a.out != nullptr ? a.out + token * a.out_stride : nullptr;
  round_made(p, x, token, is_real, sums, to, [&](Index c, const Quad& q) {
    const Quad gain = load_quad<Wide>(a.gain, c, channels);
    Quad out;
#pragma unroll
    for (int j = 0; j < kQuad; ++j) out.v[j] = q.v[j] * scale * (gain.v[j] + plus);
    return out;
  });
}

template <int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>)
    layer_norm_round_kernel(RoundProblem p, LayerNormArgs a) {
  const int64_t token = own_row<Lanes>();
  const bool is_real = token < a.tokens;
  using Index = RowIndex<Quads>;
  const Index channels = is_real ? Index(a.channels) : Index(0);
  int32_t* sums = segment_sums<Lanes>(p);
  Row<Lanes, Quads, Wide> x(a.x + token * a.x_stride, channels);
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
  float* to = a.out != nullptr ? a.out + token * a.out_stride : nullptr;
  round_made(p, x, token, is_real, sums, to, [&](Index c, const Quad& q) {
    const Quad gain = load_quad<Wide>(a.gain, c, channels);
    Quad bias{};
    if (a.bias != nullptr) bias = load_quad<Wide>(a.bias, c, channels);
    Quad out;
#pragma unroll
    for (int j = 0; j < kQuad; ++j) out.v[j] = fmaf((q.v[j] - mean) * scale, gain.v[j], bias.v[j]);
    return out;
  });
}

}  // namespace

void rms_norm_quantize(Context& context, const RmsNormArgs& a, const PackedMatrix& weight, void* workspace) {
  PARE_ASSERT(a.channels == weight.in, "[rms_norm_quantize] {} channels for {} inputs", a.channels,
              weight.in);
  const RoundProblem p = round_problem_of(weight, a.tokens, workspace);
  const bool is_wide = rows_are_wide(a.x, a.x_stride) && rows_are_wide(a.gain, 0) &&
                       (a.out == nullptr || rows_are_wide(a.out, a.out_stride));
  with_row_shape(a.channels, [&]<int Lanes, int Quads>() {
    context.launch(
        "rms_norm_quantize",
        is_wide ? rms_norm_round_kernel<Lanes, Quads, true> : rms_norm_round_kernel<Lanes, Quads, false>,
        round_shape<Lanes>(p, a.tokens), p, a);
  });
}

void layer_norm_quantize(Context& context, const LayerNormArgs& a, const PackedMatrix& weight,
                         void* workspace) {
  PARE_ASSERT(a.channels == weight.in, "[layer_norm_quantize] {} channels for {} inputs", a.channels,
              weight.in);
  const RoundProblem p = round_problem_of(weight, a.tokens, workspace);
  const bool is_wide = rows_are_wide(a.x, a.x_stride) && rows_are_wide(a.gain, 0) &&
                       (a.bias == nullptr || rows_are_wide(a.bias, 0)) &&
                       (a.out == nullptr || rows_are_wide(a.out, a.out_stride));
  with_row_shape(a.channels, [&]<int Lanes, int Quads>() {
    context.launch(
        "layer_norm_quantize",
        is_wide ? layer_norm_round_kernel<Lanes, Quads, true> : layer_norm_round_kernel<Lanes, Quads, false>,
        round_shape<Lanes>(p, a.tokens), p, a);
  });
}

}  // namespace pare::cuda
