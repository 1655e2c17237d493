// rotary, rotary_backward: in place, one quad of a half head (or one component) per thread.
#include <algorithm>

#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/quads.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostRowsOfBlocks = 65'535;

// The pair (low, high) turned by an angle, or back.
template <bool Back>
__device__ __forceinline__ void turn(float& low, float& high, float cosine, float sine) {
  const float s = Back ? -sine : sine;
  const float turned = fmaf(low, cosine, -high * s);
  high = fmaf(high, cosine, low * s);
  low = turned;
}

// blockIdx.x: pieces of the heads of a token, blockIdx.y: tokens.
template <bool Wide, bool Back>
__global__ void __launch_bounds__(kThreads) rotary_kernel(RotaryArgs a) {
  constexpr int kPiece = Wide ? kQuad : 1;
  const int64_t half = a.rotary_dim / 2, pieces = half / kPiece;
  const int64_t item = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= a.heads * pieces) return;
  const int64_t head = item / pieces, k = (item - head * pieces) * kPiece;
  for (int64_t t = blockIdx.y; t < a.tokens; t += gridDim.y) {
    const float* cosines = a.cosines + int64_t(a.positions[t]) * half;
    const float* sines = a.sines + int64_t(a.positions[t]) * half;
    float* x = a.x + t * a.stride + head * a.head_dim;
    if constexpr (Wide) {
      Quad low = load_quad<true>(x, k, half), high = load_quad<true>(x + half, k, half);
      const Quad cosine = load_quad<true>(cosines, k, half), sine = load_quad<true>(sines, k, half);
#pragma unroll
      for (int j = 0; j < kQuad; ++j) turn<Back>(low.v[j], high.v[j], cosine.v[j], sine.v[j]);
      store_quad<true>(x, k, half, low);
      store_quad<true>(x + half, k, half, high);
    } else {
      float low = x[k], high = x[k + half];
      turn<Back>(low, high, cosines[k], sines[k]);
      x[k] = low;
      x[k + half] = high;
    }
  }
}

template <bool Back>
void launch_rotary(Context& context, const char* name, const RotaryArgs& a) {
  const int64_t half = a.rotary_dim / 2;
  if (half == 0) return;
  const bool is_wide = half % kQuad == 0 && a.head_dim % kQuad == 0 && rows_are_wide(a.x, a.stride) &&
                       rows_are_wide(a.cosines, 0) && rows_are_wide(a.sines, 0);
  const int64_t pieces = a.heads * (is_wide ? half / kQuad : half);
  const LaunchShape shape{
      .grid = dim3(blocks_for(pieces, kThreads), unsigned(std::min(a.tokens, kMostRowsOfBlocks))),
      .block = kThreads};
  context.launch(name, is_wide ? rotary_kernel<true, Back> : rotary_kernel<false, Back>, shape, a);
}

}  // namespace

void CudaBackend::rotary(const RotaryArgs& a) {
  launch_rotary<false>(*context_, "rotary", a);
}

// The transposed rotation: the gradient of q and k before it.
void CudaTraining::rotary_backward(const RotaryArgs& a) {
  launch_rotary<true>(context_, "rotary_backward", a);
}

}  // namespace pare::cuda
