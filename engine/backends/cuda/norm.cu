// rms_norm, layer_norm: one block per row; sums in float, in a tree of fixed shape.
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void rms_norm_kernel(RmsNormArgs a) {
  const int64_t row = blockIdx.x;
  const float* x = a.x + row * a.x_stride;
  float* out = a.out + row * a.out_stride;
  float sum = 0.0f;
  for (int64_t c = threadIdx.x; c < a.channels; c += blockDim.x) sum = fmaf(x[c], x[c], sum);
  sum = block_sum(sum);
  const float scale = 1.0f / sqrtf(sum / float(a.channels) + a.eps);
  for (int64_t c = threadIdx.x; c < a.channels; c += blockDim.x) {
    const float gain = a.gain_plus_one ? 1.0f + a.gain[c] : a.gain[c];
    out[c] = x[c] * scale * gain;
  }
}

// Two passes: the mean first, so that a large mean does not cancel.
__global__ void layer_norm_kernel(LayerNormArgs a) {
  const int64_t row = blockIdx.x;
  const float* x = a.x + row * a.x_stride;
  float* out = a.out + row * a.out_stride;
  float sum = 0.0f;
  for (int64_t c = threadIdx.x; c < a.channels; c += blockDim.x) sum += x[c];
  const float mean = block_sum(sum) / float(a.channels);
  float squares = 0.0f;
  for (int64_t c = threadIdx.x; c < a.channels; c += blockDim.x)
    squares = fmaf(x[c] - mean, x[c] - mean, squares);
  const float scale = 1.0f / sqrtf(block_sum(squares) / float(a.channels) + a.eps);
  for (int64_t c = threadIdx.x; c < a.channels; c += blockDim.x) {
    const float normal = (x[c] - mean) * scale * a.gain[c];
    out[c] = a.bias != nullptr ? normal + a.bias[c] : normal;
  }
}

}  // namespace

void CudaBackend::rms_norm(const RmsNormArgs& a) {
  context_->launch("rms_norm", rms_norm_kernel, {.grid = blocks_for(a.tokens, 1), .block = kThreads}, a);
}

void CudaBackend::layer_norm(const LayerNormArgs& a) {
  context_->launch("layer_norm", layer_norm_kernel, {.grid = blocks_for(a.tokens, 1), .block = kThreads}, a);
}

}  // namespace pare::cuda
