// engine/tensor/quant_scheme.h: what codes mean. Not where they lie (packed_layout.h), not which code runs
// them.
//
// Affine schemes: real = scale * (code - zero_point), codes in [0, 2^bits). A symmetric scheme has the
// constant zero_point 2^(bits-1), so a signed code q is stored as q + 2^(bits-1). Source: docs/methods.md.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "engine/core/json.h"
#include "engine/core/result.h"
#include "engine/tensor/dtype.h"

namespace pare {

struct QuantScheme {
  enum class Kind : uint8_t {
    integer,   // affine codes of `bits` bits
    floating,  // codes are values of `float_type` (f8_e4m3, f8_e5m2); real = scale * value
    codebook,  // codes index a table of 2^bits values; real = scale * table[code]
  };
  enum class Granularity : uint8_t { tensor, channel, group };  // one scale per ... ; channel = output row
  enum class Offset : uint8_t {
    none,        // symmetric
    zero_point,  // asymmetric, integer zero point in [0, 2^bits)
    minimum,     // asymmetric, real = minimum + scale * code (float offset)
  };
  enum class Range : uint8_t {
    narrow,  // symmetric, largest code 2^(bits-1) - 1 on both sides: scale = amax / (2^(bits-1) - 1)
    full,    // symmetric, all codes: scale = 2 amax / (2^bits - 1)
  };

  Kind kind = Kind::integer;
  int bits = 8;  // 2 to 8 (stored), codes below 2^bits
  Granularity granularity = Granularity::channel;
  int64_t group_size = 0;  // weights per scale along `in`; only for group
  Offset offset = Offset::none;
  Range range = Range::narrow;        // symmetric integer schemes only; narrow for 8 bits, full below
  DType scale_dtype = DType::f16;     // f16, bf16 or f32
  DType float_type = DType::f8_e4m3;  // only for floating
  std::string codebook;               // "nf4", or "custom" with a table in the tensor; only for codebook

  bool operator==(const QuantScheme&) const = default;
  bool is_symmetric() const { return offset == Offset::none; }
  int code_count() const { return 1 << bits; }
  int symmetric_zero_point() const { return 1 << (bits - 1); }
  int64_t groups(int64_t in) const;       // per row: ceil(in / group_size), or 1
  int64_t group_width(int64_t in) const;  // group_size, or `in` for channel and tensor
  int64_t row_bytes(int64_t in) const;    // ceil(in * bits / 8): rows start on a byte
  // Bits per weight of a matrix [out, in], scales and offsets included.
  double bits_per_weight(int64_t out, int64_t in) const;
  // Bytes of codes, scales and offsets of a matrix [out, in].
  uint64_t stored_bytes(int64_t out, int64_t in) const;
  // Largest 1 - 2<a,b>/(|a|^2+|b|^2) that rounding to this scheme may cause on Gaussian weights; tests use
  // it.
  double max_relative_error() const;

  // Canonical text: "int8-ch-sym", "int4-g128-sym", "int4-g64-asym", "int4-g64-asymf" (float offset),
  // "nf4-g64", "fp8-e4m3-ch"; "-sf32" or "-sbf16" is appended when scales are not f16; "-narrow"/"-full" when
  // the range is not the default.
  std::string text() const;
  // Accepts the canonical text and what people write: "int8" (channel), "int4" (g128), "int8-tensor",
  // "int8-ch", parts in any order after the type. Error: exit 2, the offending part, and the accepted forms.
  static Result<QuantScheme> parse(std::string_view text);

  Json to_json() const;
  // Exit 3 for impossible values (PK09), 4 for kinds from the future. `path` and `where` go into the error.
  static Result<QuantScheme> from_json(const Json& json, std::string_view path, std::string_view where);
};

// The 16 NF4 values. Source: Dettmers et al., "QLoRA" (2023), appendix E.
inline constexpr std::array<float, 16> kNf4Codebook{
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};
std::span<const float, 16> nf4_codebook();

}  // namespace pare
