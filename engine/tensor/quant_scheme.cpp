#include "engine/tensor/quant_scheme.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/core/assert.h"

namespace pare {

int64_t QuantScheme::groups(int64_t in) const {
  if (granularity != Granularity::group) return 1;
  PARE_ASSERT(group_size > 0, "[scheme] group size {}", group_size);
  return in / group_size + (in % group_size != 0 ? 1 : 0);
}

int64_t QuantScheme::group_width(int64_t in) const {
  return granularity == Granularity::group ? group_size : in;
}

int64_t QuantScheme::row_bytes(int64_t in) const {
  return (in * bits + 7) / 8;
}

uint64_t QuantScheme::stored_bytes(int64_t out, int64_t in) const {
  const int64_t rows = granularity == Granularity::tensor ? 1 : out;
  const uint64_t scale_count = uint64_t(rows) * uint64_t(groups(in));
  uint64_t bytes_per_scale = uint64_t(dtype_bytes(scale_dtype));
  if (offset == Offset::zero_point) bytes_per_scale += 1;
  if (offset == Offset::minimum) bytes_per_scale *= 2;
  uint64_t bytes = uint64_t(out) * uint64_t(row_bytes(in)) + scale_count * bytes_per_scale;
  if (kind == Kind::codebook && codebook == "custom") bytes += uint64_t(code_count()) * 4;
  return bytes;
}

double QuantScheme::bits_per_weight(int64_t out, int64_t in) const {
  return 8.0 * double(stored_bytes(out, in)) / (double(out) * double(in));
}

double QuantScheme::max_relative_error() const {
  // With an error much smaller than the weights the measure is half of |a - b|^2 / |a|^2.
  if (kind == Kind::floating) {
    // half a unit in the last place, uniform, of values that all have the worst mantissa
    const double half_step = dtype_epsilon(float_type) / 2.0;
    return half_step * half_step / 3.0 / 2.0;
  }
  // Largest magnitude expected among the weights of a group, in standard deviations; for whole rows and
  // tensors the magnitude that 10^8 weights stay below.
  const double amax =
      granularity == Granularity::group ? std::sqrt(2.0 * std::log(2.0 * double(group_size))) + 0.5 : 6.0;
  const double step = 2.0 * amax / double(code_count() - 1);
  // step^2 / 12 for uniform errors; half as much again because coarse steps do not err uniformly
  return std::min(1.0, 1.5 * step * step / 12.0 / 2.0);
}

std::span<const float, 16> nf4_codebook() {
  return kNf4Codebook;
}

}  // namespace pare
