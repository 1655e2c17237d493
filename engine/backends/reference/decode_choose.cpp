// The choice of the next id: every candidate in order, integers for shares of probability.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "engine/backends/reference/decode_class.h"
#include "engine/core/random.h"

namespace pare::reference {
namespace {

struct Candidate {
  float logit;
  int32_t id;
  uint64_t weight;  // in 2^-40 of the largest
};

// 24 bits of the draw with this number; engine/core/random.h with the key given.
uint64_t drawn_bits(const DecodeSampling& sampling, int32_t draw) {
  const auto words = philox4x32({uint32_t(draw), 0, 0, uint32_t(RandomPurpose::sampling)},
                                {sampling.key[0], sampling.key[1]});
  return words[0] >> 8;
}

int32_t chosen(const DecodeSampling& s, const uint32_t* seen, const float* logits, int64_t columns,
               int32_t draw) {
  std::vector<Candidate> candidates;
  bool has_nan = false, has_infinity = false;
  for (int64_t i = 0; i < columns; ++i) {
    float logit = logits[i];
    const bool is_seen = seen != nullptr && (seen[i / 32] >> (i % 32) & 1) != 0;
    if (is_seen && s.repetition_penalty != 1.0f)
      logit = logit > 0.0f ? logit / s.repetition_penalty : logit * s.repetition_penalty;
    has_nan |= std::isnan(logit);
    has_infinity |= logit == std::numeric_limits<float>::infinity();
    if (std::isfinite(logit)) candidates.push_back({logit, int32_t(i), 0});
  }
  if (has_nan) return kDecodeNan;
  if (has_infinity) return kDecodeInfinity;
  if (candidates.empty()) return kDecodeNothing;
  const auto larger = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  const Candidate best = *std::min_element(candidates.begin(), candidates.end(), larger);
  // so small a temperature that it means greedy
  if (!(s.temperature > 0.0f) || !std::isfinite(best.logit / s.temperature)) return best.id;
  for (Candidate& candidate : candidates) candidate.logit /= s.temperature;
  std::sort(candidates.begin(), candidates.end(), larger);
  const float largest = candidates[0].logit;
  for (Candidate& c : candidates) c.weight = uint64_t(std::llrint(std::exp(c.logit - largest) * 0x1p40f));

  size_t count = candidates.size();
  if (s.top_k > 0) count = std::min(count, size_t(s.top_k));
  const auto total_of = [&] {
    uint64_t total = 0;
    for (size_t i = 0; i < count; ++i) total += candidates[i].weight;
    return total;
  };
  // The shortest prefix whose weights come to more than `limit`.
  const auto prefix = [&](uint64_t limit) {
    uint64_t sum = 0;
    for (size_t i = 0; i < count; ++i) {
      sum += candidates[i].weight;
      if (sum > limit) return i + 1;
    }
    return count;
  };
  if (s.top_p < 1.0) {
    const auto share = uint64_t(s.top_p * double(total_of()));
    count = prefix(share > 0 ? share - 1 : 0);
  }
  const auto least = uint64_t(std::ceil(s.min_p * 0x1p40));
  while (count > 1 && candidates[count - 1].weight < least) --count;
  const auto threshold = uint64_t((static_cast<unsigned __int128>(total_of()) * drawn_bits(s, draw)) >> 24);
  return candidates[prefix(threshold) - 1].id;
}

}  // namespace

void choose_rows(const DecodeChooseArgs& a) {
  const DecodeState& state = a.state;
  for (int64_t r = 0; r < state.rows; ++r) {
    uint32_t* seen = state.seen != nullptr ? state.seen + r * state.words : nullptr;
    const int32_t id = chosen(state.sampling[r], seen, a.logits + r * a.columns, a.columns, state.draws[r]);
    state.ring[int64_t{state.draws[r]} % state.slots * state.ring_stride + r] = id;
    state.ids[r] = std::max(id, 0);
    if (seen != nullptr && id >= 0) seen[id / 32] |= 1u << (id % 32);
    ++state.draws[r];
    if (a.advance) state.positions[r] = std::min(state.positions[r] + 1, state.last_position);
  }
}

}  // namespace pare::reference
