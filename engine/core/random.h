// engine/core/random.h: counter-based random numbers. No state: any element can be drawn anywhere, by any
// thread, with the same result. Philox4x32-10; Source: Salmon et al., "Parallel random numbers" (2011).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace pare {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// What a draw is for; values are part of results and are never reused or renumbered.
enum class RandomPurpose : uint32_t {
  test_data = 0,
  calibration_windows = 1,
  sampling = 2,
  initialisation = 3,
  shuffling = 4,
  rotation_signs = 5,
  privacy_noise = 6,
  random_projection = 7,
};

// Key = (seed, stream), counter = (index low, index high, step, purpose).
class Random {
 public:
  Random(uint64_t seed, RandomPurpose purpose, uint32_t stream = 0);
  // A stream named after a tensor.
  Random(uint64_t seed, RandomPurpose purpose, std::string_view stream_name);

  std::array<uint32_t, 4> bits(uint64_t index, uint32_t step = 0) const;
  float uniform(uint64_t index, uint32_t step = 0) const;               // [0, 1), 24 bits
  float normal(uint64_t index, uint32_t step = 0) const;                // Box-Muller
  uint64_t below(uint64_t n, uint64_t index, uint32_t step = 0) const;  // [0, n), n > 0, unbiased
  std::array<uint32_t, 2> key() const { return key_; }  // for those who draw on another device
  std::vector<uint64_t> permutation(uint64_t n, uint32_t step = 0) const;

 private:
  std::array<uint32_t, 2> key_;
  uint32_t purpose_;
};

}  // namespace pare
