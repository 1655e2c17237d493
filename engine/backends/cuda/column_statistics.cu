// Statistics of channels over tokens. A channel belongs to one thread, which adds its tokens in order and in
// double, so the sums are those of the host bit for bit, whatever the size of a batch. One warp per block:
// 4096 channels are 128 blocks, one for each multiprocessor; loads of sixteen tokens are under way while the
// few additions of the token before wait for each other, and that is what the loop takes, not memory.
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kTokensAtOnce = 16;

__global__ void column_statistics_kernel(ColumnStatisticsArgs a) {
  const int64_t channel = int64_t(blockIdx.x) * kWarp + threadIdx.x;
  if (channel >= a.channels) return;
  const float* x = a.x + channel;
  double sum = a.sum != nullptr ? a.sum[channel] : 0.0;
  double abs_sum = a.abs_sum != nullptr ? a.abs_sum[channel] : 0.0;
  double square_sum = a.square_sum != nullptr ? a.square_sum[channel] : 0.0;
  double sample_square_sum = a.sample_square_sum != nullptr ? a.sample_square_sum[channel] : 0.0;
  float abs_max = a.abs_max != nullptr ? a.abs_max[channel] : 0.0f;
  float low = a.low != nullptr ? a.low[channel] : 0.0f;
  float high = a.high != nullptr ? a.high[channel] : 0.0f;
  int64_t first_bad = -1;
  const bool has_samples = a.sample_square_sum != nullptr && a.tokens_per_sample > 0;
  const int64_t sample_tokens = has_samples ? a.tokens_per_sample : a.tokens;

  for (int64_t begin = 0; begin < a.tokens; begin += sample_tokens) {
    double sample = 0.0;
    const int64_t end = begin + sample_tokens;
    for (int64_t first = begin; first < end; first += kTokensAtOnce) {
      float values[kTokensAtOnce];
#pragma unroll
      for (int i = 0; i < kTokensAtOnce; ++i)
        values[i] = first + i < end ? __ldg(x + (first + i) * a.x_stride) : 0.0f;
#pragma unroll
      for (int i = 0; i < kTokensAtOnce; ++i) {
        if (first + i >= end) break;
        const float value = values[i], magnitude = fabsf(value);
        sum += double(value);
        abs_sum += double(magnitude);
        square_sum += double(value) * double(value);  // exact before it is added, fused or not
        sample += double(magnitude);
        abs_max = magnitude > abs_max ? magnitude : abs_max;
        low = value < low ? value : low;
        high = value > high ? value : high;
        // neither NaN nor infinite: the exponent is not all ones
        const bool is_finite = (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
        if (!is_finite && first_bad < 0) first_bad = first + i;
      }
    }
    if (has_samples) {
      const double mean = sample / double(sample_tokens);
      // two roundings, as on the host: not fused
      sample_square_sum = __dadd_rn(sample_square_sum, __dmul_rn(mean, mean));
    }
  }
  if (a.sum != nullptr) a.sum[channel] = sum;
  if (a.abs_sum != nullptr) a.abs_sum[channel] = abs_sum;
  if (a.square_sum != nullptr) a.square_sum[channel] = square_sum;
  if (has_samples) a.sample_square_sum[channel] = sample_square_sum;
  if (a.abs_max != nullptr) a.abs_max[channel] = abs_max;
  if (a.low != nullptr) a.low[channel] = low;
  if (a.high != nullptr) a.high[channel] = high;
  if (a.first_bad != nullptr && first_bad >= 0)
    atomicMin(reinterpret_cast<long long*>(a.first_bad),
              static_cast<long long>(first_bad * a.channels + channel));
}

}  // namespace

void CudaStatistics::column_statistics(const ColumnStatisticsArgs& a) {
  PARE_ASSERT(a.tokens_per_sample == 0 || a.tokens % a.tokens_per_sample == 0,
              "[column_statistics] {} tokens in samples of {}", a.tokens, a.tokens_per_sample);
  context_.launch("column_statistics", column_statistics_kernel,
                  {.grid = blocks_for(a.channels, kWarp), .block = kWarp}, a);
}

}  // namespace pare::cuda
