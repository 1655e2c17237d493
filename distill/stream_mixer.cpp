#include "distill/stream_mixer.h"

#include <utility>

#include "engine/core/assert.h"

namespace pare {
namespace {

using Wide = unsigned __int128;

}  // namespace

StreamMixer::StreamMixer(std::vector<uint64_t> weights) : weights_(std::move(weights)) {
  PARE_ASSERT(!weights_.empty(), "[mixer] no stream");
  for (const uint64_t weight : weights_) {
    PARE_ASSERT(weight >= 1 && weight <= 1ull << 40, "[mixer] weight {}", weight);
    total_ += weight;
  }
}

// The stream whose next draw has the smallest time, compared exactly.
StreamMixer::Draw StreamMixer::next(const std::vector<int64_t>& counts) const {
  size_t best = 0;
  for (size_t s = 1; s < weights_.size(); ++s) {
    const Wide time = Wide(2 * uint64_t(counts[s]) + 1) * weights_[best];
    const Wide best_time = Wide(2 * uint64_t(counts[best]) + 1) * weights_[s];
    if (time < best_time) best = s;
  }
  return {int32_t(best), counts[best]};
}

// Draws with times up to 2x number floor(x w_s + 1/2) per stream, at most x W + S / 2 in all. With x =
// (samples - S) / W these are some of the first `samples` draws, so that only the last few have to be made
// one by one.
std::vector<int64_t> StreamMixer::counts(int64_t samples) const {
  PARE_ASSERT(samples >= 0 && samples < int64_t(1) << 48, "[mixer] sample {}", samples);
  const auto streams = int64_t(weights_.size());
  std::vector<int64_t> counts(weights_.size(), 0);
  int64_t made = 0;
  if (samples > streams) {
    for (size_t s = 0; s < counts.size(); ++s) {
      const Wide halves = Wide(uint64_t(samples - streams)) * weights_[s] * 2 + total_;
      counts[s] = int64_t(halves / (Wide(total_) * 2));
      made += counts[s];
    }
  }
  PARE_ASSERT(made <= samples, "[mixer] {} of {} draws", made, samples);
  for (; made < samples; ++made) ++counts[size_t(next(counts).stream)];
  return counts;
}

StreamMixer::Draw StreamMixer::at(int64_t sample) const {
  if (weights_.size() == 1) return {0, sample};
  return next(counts(sample));
}

}  // namespace pare
