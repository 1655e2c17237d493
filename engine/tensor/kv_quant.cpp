#include "engine/tensor/kv_quant.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

using Kind = KvQuant::Kind;

constexpr std::array<std::string_view, 3> kNames{"none", "int8", "int4"};  // in the order of Kind
constexpr int kCentre = 128;                                               // zero of int8
constexpr uint16_t kNotANumber = 0x7e00, kOne = 0x3c00, kSmallestNormal = 0x0400, kLargest = 0x7bff;

// Grid of one key or value: float(scale), and the code of 0.
struct Grid {
  uint16_t scale = kOne;
  int zero = 0;
};

Grid grid_of(Kind kind, float low, float high) {
  const int centre = kind == Kind::int8 ? kCentre : 0;
  if (low == 0.0f && high == 0.0f) return {.scale = kOne, .zero = centre};
  const double width =
      kind == Kind::int8 ? double(std::max(-low, high)) / 127.0 : (double(high) - double(low)) / 15.0;
  uint16_t scale = float_to_f16(float(std::min(width, 65504.0)));
  scale = std::clamp(scale, kSmallestNormal, kLargest);
  if (kind == Kind::int8) return {.scale = scale, .zero = kCentre};
  const double zero = std::rint(-double(low) / double(f16_to_float(scale)));
  return {.scale = scale, .zero = int(std::clamp(zero, 0.0, 15.0))};
}

}  // namespace

uint64_t KvQuant::vector_bytes(int64_t head_dim) const {
  if (is_none()) return uint64_t(head_dim) * sizeof(float);
  return uint64_t(row_bytes(head_dim)) + sizeof(uint16_t) + (has_zeros() ? 1 : 0);
}

std::string_view KvQuant::name() const {
  return kNames[size_t(kind)];
}

std::optional<KvQuant> KvQuant::parse(std::string_view name) {
  const auto found = std::ranges::find(kNames, name);
  if (found == kNames.end()) return std::nullopt;
  return KvQuant{Kind(found - kNames.begin())};
}

void kv_encode(KvQuant quant, const float* x, int64_t head_dim, uint8_t* codes, uint16_t* scale,
               uint8_t* zero) {
  PARE_ASSERT(!quant.is_none() && head_dim <= kKvHeadDim, "[kv] {} of {}", quant.name(), head_dim);
  float low = 0.0f, high = 0.0f;
  bool is_finite = true;
  for (int64_t d = 0; d < head_dim; ++d) {
    low = x[d] < low ? x[d] : low;
    high = x[d] > high ? x[d] : high;
    is_finite &= std::isfinite(x[d]);
  }
  if (!is_finite) {
    std::fill_n(codes, quant.row_bytes(head_dim), uint8_t{0});
    *scale = kNotANumber;
    if (zero != nullptr) *zero = 0;
    return;
  }
  const Grid grid = grid_of(quant.kind, low, high);
  const bool is_int8 = quant.kind == Kind::int8;
  const float step = f16_to_float(grid.scale);
  const float bottom = is_int8 ? -127.0f : float(-grid.zero), top = is_int8 ? 127.0f : float(15 - grid.zero);
  // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits.
  constexpr float kShift = 12582912.0f;
  const int32_t offset = grid.zero - std::bit_cast<int32_t>(kShift);
  std::array<uint8_t, size_t{kKvHeadDim}> whole;
  uint8_t* target = is_int8 ? codes : whole.data();
  for (int64_t d = 0; d < head_dim; ++d) {
    float value = x[d] / step;
    value = value < bottom ? bottom : value;
    value = value > top ? top : value;
    target[d] = uint8_t(std::bit_cast<int32_t>(value + kShift) + offset);
  }
  *scale = grid.scale;
  if (zero != nullptr) *zero = uint8_t(grid.zero);
  if (is_int8) return;
  const int64_t half = (head_dim + 1) / 2;
  for (int64_t i = 0; i < half; ++i) {
    const uint8_t above = i + half < head_dim ? whole[size_t(i + half)] : uint8_t{0};
    codes[i] = uint8_t(whole[size_t(i)] | (above << 4));
  }
}

void kv_decode(KvQuant quant, const uint8_t* codes, uint16_t scale, uint8_t zero, int64_t head_dim,
               float* x) {
  const float step = f16_to_float(scale), shift = float(quant.kind == Kind::int8 ? kCentre : int(zero));
  if (quant.kind == Kind::int8) {
    for (int64_t d = 0; d < head_dim; ++d) x[d] = step * (float(codes[d]) - shift);
    return;
  }
  const int64_t half = (head_dim + 1) / 2;
  for (int64_t i = 0; i < half; ++i) x[i] = step * (float(codes[i] & 15) - shift);
  for (int64_t i = half; i < head_dim; ++i) x[i] = step * (float(codes[i - half] >> 4) - shift);
}

float kv_value(KvQuant quant, const uint8_t* codes, uint16_t scale, uint8_t zero, int64_t head_dim,
               int64_t d) {
  const float step = f16_to_float(scale);
  if (quant.kind == Kind::int8) return step * (float(codes[d]) - float(kCentre));
  const int64_t half = (head_dim + 1) / 2;
  const int code = d < half ? codes[d] & 15 : codes[d - half] >> 4;
  return step * (float(code) - float(zero));
}

}  // namespace pare
