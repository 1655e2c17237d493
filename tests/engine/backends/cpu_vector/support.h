// tests/engine/backends/cpu_vector/support.h: levels of this host, random numbers and errors in units of the
// last place.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "engine/backends/cpu/isa.h"

namespace pare::cpu {

inline std::vector<Isa> host_levels() {
  std::vector<Isa> levels;
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx512}) {
    if (isa <= host_isa()) levels.push_back(isa);
  }
  return levels;
}

// Uniform in [low, high), the same everywhere.
inline std::vector<float> random_floats(int64_t count, float low, float high, uint32_t seed) {
  std::mt19937 engine(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = low + (high - low) * float(engine() >> 8) * 0x1p-24f;
  return values;
}

// |value - expected| in units of the last place that a float has at `expected`; infinities must agree.
inline double ulp_error(float value, double expected) {
  if (std::isnan(value) || std::isnan(expected))
    return std::isnan(value) == std::isnan(expected) ? 0.0 : 1e30;
  const float rounded = float(expected);
  if (std::isinf(value) || std::isinf(rounded)) return value == rounded ? 0.0 : 1e30;
  const int exponent = std::max(rounded == 0.0f ? -126 : std::ilogb(rounded), -126);
  return std::abs(double(value) - expected) / std::ldexp(1.0, exponent - 23);
}

}  // namespace pare::cpu
