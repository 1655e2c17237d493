// tests/engine/backends/cpu_matmul/quantized_support.h: random quantized matrices of every scheme.
#pragma once

#include "support.h"

namespace pare::cpu::test {

inline void set_scale(Tensor& tensor, int64_t index, float value) {
  switch (tensor.dtype()) {
    case DType::f16:
      tensor.mutable_data<uint16_t>()[index] = float_to_f16(value);
      break;
    case DType::bf16:
      tensor.mutable_data<uint16_t>()[index] = float_to_bf16(value);
      break;
    default:
      tensor.mutable_data<float>()[index] = value;
  }
}

// Random codes, scales in (0.01, 0.11) or, for exact arithmetic, powers of two; zero points and minimums
// anywhere.
inline std::shared_ptr<const QuantizedTensor> random_quantized(const QuantScheme& scheme, int64_t out,
                                                               int64_t in, bool exact, uint64_t seed) {
  Numbers numbers(seed);
  auto made = QuantizedTensor::allocate(scheme, out, in);
  EXPECT_TRUE(made.has_value());
  auto weight = std::make_shared<QuantizedTensor>(std::move(made).value());
  std::vector<uint8_t> codes(static_cast<size_t>(in));
  for (int64_t row = 0; row < out; ++row) {
    for (uint8_t& code : codes) {
      code = uint8_t(numbers.bits() >> 40) & uint8_t(scheme.code_count() - 1);
      // 0x7f and 0xff are not numbers in f8_e4m3; large magnitudes would hide the others
      if (scheme.kind == QuantScheme::Kind::floating) code &= 0xbf;
    }
    pack_codes(codes.data(), in, scheme.bits,
               weight->codes.mutable_data<uint8_t>() + row * scheme.row_bytes(in));
  }
  for (int64_t i = 0; i < weight->scales.numel(); ++i) {
    set_scale(weight->scales, i, exact ? float(1 << numbers.integer(0, 2)) : 0.06f + 0.05f * numbers.real());
    if (weight->zero_points.defined()) {
      weight->zero_points.mutable_data<uint8_t>()[i] = uint8_t(numbers.integer(0, scheme.code_count() - 1));
    }
    if (weight->minimums.defined()) {
      set_scale(weight->minimums, i, exact ? float(numbers.integer(-3, 3)) : numbers.real());
    }
  }
  if (weight->codebook.defined()) {
    for (int64_t i = 0; i < weight->codebook.numel(); ++i) {
      weight->codebook.mutable_data<float>()[i] = exact ? float(numbers.integer(-8, 8)) : numbers.real();
    }
  }
  return weight;
}

inline QuantScheme scheme_of(std::string_view text) {
  auto scheme = QuantScheme::parse(text);
  EXPECT_TRUE(scheme.has_value()) << text;
  return *scheme;
}

// Every width, granularity, offset and scale type, and the kinds that are not integers.
inline std::vector<QuantScheme> all_schemes() {
  std::vector<QuantScheme> schemes;
  for (const int bits : {2, 3, 4, 5, 6, 7, 8}) {
    for (const auto offset :
         {QuantScheme::Offset::none, QuantScheme::Offset::zero_point, QuantScheme::Offset::minimum}) {
      for (const int64_t group : {0, 1, 32, 50, 128}) {  // 0: channel, 1: tensor
        QuantScheme scheme;
        scheme.bits = bits;
        scheme.offset = offset;
        scheme.granularity = group == 0   ? QuantScheme::Granularity::channel
                             : group == 1 ? QuantScheme::Granularity::tensor
                                          : QuantScheme::Granularity::group;
        scheme.group_size = group > 1 ? group : 0;
        // types take turns: each meets every width and offset
        scheme.scale_dtype = (bits + int(group)) % 3 == 0   ? DType::f32
                             : (bits + int(group)) % 3 == 1 ? DType::f16
                                                            : DType::bf16;
        schemes.push_back(scheme);
      }
    }
  }
  for (const char* text : {"nf4-g64", "nf4-ch", "fp8-e4m3-ch", "fp8-e4m3-g32"})
    schemes.push_back(scheme_of(text));
  QuantScheme custom = scheme_of("nf4-g64");
  custom.codebook = "custom";
  schemes.push_back(custom);
  custom.bits = 3;
  schemes.push_back(custom);
  QuantScheme wide = scheme_of("fp8-e4m3-ch");
  wide.float_type = DType::f8_e5m2;
  schemes.push_back(wide);
  return schemes;
}

}  // namespace pare::cpu::test
