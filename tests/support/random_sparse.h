// tests/support/random_sparse.h: random masks of every pattern, random matrices and random codes of every
// scheme.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "engine/core/random.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/mask.h"
#include "engine/tensor/quantized_tensor.h"

namespace pare::test {

inline SparsityPattern pattern_of(std::string_view text) {
  return *SparsityPattern::parse(text);
}

// Keeps about `share` of the weights (n_of_m: what the pattern says).
inline Mask random_mask(const SparsityPattern& pattern, int64_t out, int64_t in, double share,
                        uint64_t seed) {
  const Random random(seed, RandomPurpose::test_data);
  Mask mask = *Mask::all_kept(out, in);
  if (pattern.kind == SparsityPattern::Kind::n_of_m) {
    for (int64_t row = 0; row < out; ++row) {
      for (int64_t left = 0; left < in; left += pattern.m) {
        const int64_t width = std::min<int64_t>(pattern.m, in - left);
        const int64_t removed = (pattern.m - pattern.n) * width / pattern.m;
        const std::vector<uint64_t> order =
            Random(seed, RandomPurpose::test_data, uint32_t(row * 4099 + left)).permutation(uint64_t(width));
        for (int64_t i = 0; i < removed; ++i) mask.set(row, left + int64_t(order[size_t(i)]), false);
      }
    }
    return mask;
  }
  const bool is_block = pattern.kind == SparsityPattern::Kind::block;
  const int64_t height = is_block ? pattern.block_rows : 1, width = is_block ? pattern.block_columns : 1;
  for (int64_t row = 0; row < out; ++row) {
    for (int64_t column = 0; column < in; ++column) {
      const int64_t unit = row / height * in + column / width;
      if (double(random.uniform(uint64_t(unit))) >= share) mask.set(row, column, false);
    }
  }
  return mask;
}

inline Tensor random_matrix(DType dtype, int64_t out, int64_t in, uint64_t seed) {
  const Random random(seed, RandomPurpose::test_data, 7);
  Tensor values = *Tensor::allocate(DType::f32, {out, in});
  for (int64_t i = 0; i < values.numel(); ++i) values.mutable_data<float>()[i] = random.normal(uint64_t(i));
  return dtype == DType::f32 ? values : *converted(values, dtype);
}

// Codes, scales and offsets of any scheme, all valid.
inline QuantizedTensor random_codes(std::string_view scheme_text, int64_t out, int64_t in, uint64_t seed) {
  const Random random(seed, RandomPurpose::test_data, 8);
  QuantScheme scheme;
  if (scheme_text.starts_with("codebook")) {  // has no text of its own: "codebook3-g16"
    scheme = *QuantScheme::parse(std::string("int") + std::string(scheme_text.substr(8)));
    scheme.kind = QuantScheme::Kind::codebook;
    scheme.codebook = "custom";
    scheme.range = QuantScheme::Range::narrow;  // means nothing here
  } else {
    scheme = *QuantScheme::parse(scheme_text);
  }
  QuantizedTensor tensor = *QuantizedTensor::allocate(scheme, out, in);
  const auto fill = [&](Tensor& part, float low, float high, uint32_t step) {
    for (int64_t i = 0; part.defined() && i < part.numel(); ++i) {
      const float value = low + (high - low) * random.uniform(uint64_t(i), step);
      if (part.dtype() == DType::f32) part.mutable_data<float>()[i] = value;
      if (part.dtype() == DType::f16) part.mutable_data<uint16_t>()[i] = float_to_f16(value);
      if (part.dtype() == DType::bf16) part.mutable_data<uint16_t>()[i] = float_to_bf16(value);
    }
  };
  fill(tensor.scales, 0.01f, 0.1f, 1);
  fill(tensor.minimums, -0.5f, -0.1f, 2);
  fill(tensor.codebook, -1.0f, 1.0f, 3);
  for (int64_t i = 0; tensor.zero_points.defined() && i < tensor.zero_points.numel(); ++i)
    tensor.zero_points.mutable_data<uint8_t>()[i] =
        uint8_t(random.below(uint64_t(scheme.code_count()), uint64_t(i), 4));
  std::vector<uint8_t> codes(static_cast<size_t>(in), 0);
  for (int64_t row = 0; row < out; ++row) {
    for (int64_t column = 0; column < in; ++column) {
      auto code = uint8_t(random.below(uint64_t(scheme.code_count()), uint64_t(row * in + column), 5));
      if (scheme.kind == QuantScheme::Kind::integer && code == 0) code = 1;  // narrow grids have no code 0
      if (scheme.kind == QuantScheme::Kind::floating && (code & 0x78) >= 0x78) code &= 0x3f;  // NaN, infinity
      codes[size_t(column)] = code;
    }
    pack_codes(codes.data(), in, scheme.bits,
               tensor.codes.mutable_data<uint8_t>() + row * scheme.row_bytes(in));
  }
  return tensor;
}

}  // namespace pare::test
