#include "engine/core/random.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "engine/core/assert.h"
#include "engine/core/hash.h"

namespace pare {
namespace {

constexpr float kUnit24 = 0x1p-24f;

uint64_t join(uint32_t low, uint32_t high) {
  return static_cast<uint64_t>(high) << 32 | low;
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint64_t kMultiplier0 = 0xd2511f53, kMultiplier1 = 0xcd9e8d57;
  constexpr uint32_t kWeyl0 = 0x9e3779b9, kWeyl1 = 0xbb67ae85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

// The upper half of a long seed is spread over the stream word; an odd factor keeps seeds apart.
Random::Random(uint64_t seed, RandomPurpose purpose, uint32_t stream)
    : key_{static_cast<uint32_t>(seed), stream ^ (static_cast<uint32_t>(seed >> 32) * 0x9e3779b9u)},
      purpose_(static_cast<uint32_t>(purpose)) {}

Random::Random(uint64_t seed, RandomPurpose purpose, std::string_view stream_name)
    : Random(seed, purpose, static_cast<uint32_t>(xxh3_128(stream_name).low)) {}

std::array<uint32_t, 4> Random::bits(uint64_t index, uint32_t step) const {
  return philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), step, purpose_}, key_);
}

float Random::uniform(uint64_t index, uint32_t step) const {
  return static_cast<float>(bits(index, step)[0] >> 8) * kUnit24;
}

float Random::normal(uint64_t index, uint32_t step) const {
  const std::array<uint32_t, 4> words = bits(index, step);
  const double u = static_cast<double>((words[0] >> 8) + 1) * 0x1p-24;  // (0, 1]: the logarithm is finite
  const double v = static_cast<double>(words[1] >> 8) * 0x1p-24;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
}

uint64_t Random::below(uint64_t n, uint64_t index, uint32_t step) const {
  PARE_ASSERT(n > 0, "[random] below(0)");
  const uint64_t rejected = (0 - n) % n;  // 2^64 mod n: products below it would favour small results
  std::array<uint32_t, 4> words = bits(index, step);
  for (;;) {
    for (size_t half = 0; half < 4; half += 2) {
      const auto product = static_cast<unsigned __int128>(join(words[half], words[half + 1])) * n;
      if (static_cast<uint64_t>(product) >= rejected) return static_cast<uint64_t>(product >> 64);
    }
    words = philox4x32(words, key_);  // both halves rejected: the block itself is the next counter
  }
}

std::vector<uint64_t> Random::permutation(uint64_t n, uint32_t step) const {
  std::vector<std::pair<uint64_t, uint64_t>> keyed(n);
  for (uint64_t i = 0; i < n; ++i) {
    const std::array<uint32_t, 4> words = bits(i, step);
    keyed[i] = {join(words[0], words[1]), i};
  }
  std::sort(keyed.begin(), keyed.end());
  std::vector<uint64_t> order(n);
  for (uint64_t i = 0; i < n; ++i) order[i] = keyed[i].second;
  return order;
}

}  // namespace pare
