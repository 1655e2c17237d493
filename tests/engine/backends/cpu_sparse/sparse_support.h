// tests/engine/backends/cpu_sparse/sparse_support.h: sparse matrices drawn at random, and the kernels of this
// host.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "engine/backends/cpu/sparse/sparse.h"
#include "tests/engine/backends/cpu_matmul/quantized_support.h"

namespace pare::cpu::test {

struct LevelAndKernels {
  Isa isa;
  const SparseKernels* kernels;
};

inline std::vector<LevelAndKernels> kernels_of_this_host() {
  std::vector<LevelAndKernels> all;
  for (const Isa isa : levels_of_this_host()) {
    for (const SparseKernels* kernels : sparse_kernels(isa)) all.push_back({isa, kernels});
  }
  return all;
}

inline SparsityPattern pattern_of(std::string_view text) {
  return SparsityPattern::parse(text).value();
}

// A mask of the pattern; share kept for unstructured ones and blocks. Row 0 keeps everything it may and row 1
// nothing where the pattern allows it.
inline Mask random_mask(const SparsityPattern& pattern, int64_t out, int64_t in, double density,
                        uint64_t seed) {
  Numbers numbers(seed);
  Mask mask = Mask::all_kept(out, in).value();
  const auto keeps = [&](int64_t row) {
    return row == 0 || (row != 1 && double(numbers.integer(0, 999)) < 1000.0 * density);
  };
  for (int64_t row = 0; row < out; ++row) {
    if (pattern.kind == SparsityPattern::Kind::unstructured) {
      for (int64_t column = 0; column < in; ++column) mask.set(row, column, keeps(row));
    } else if (pattern.kind == SparsityPattern::Kind::n_of_m) {
      for (int64_t left = 0; left < in; left += pattern.m) {
        const int64_t width = std::min<int64_t>(pattern.m, in - left);
        int64_t to_remove = (pattern.m - pattern.n) * width / pattern.m;
        for (int64_t left_over = width; left_over > 0; --left_over) {
          const bool remove = numbers.integer(1, left_over) <= to_remove;
          if (remove) --to_remove;
          mask.set(row, left + left_over - 1, !remove);
        }
      }
    }
  }
  if (pattern.kind != SparsityPattern::Kind::block) return mask;
  for (int64_t top = 0; top < out; top += pattern.block_rows) {
    for (int64_t left = 0; left < in; left += pattern.block_columns) {
      const bool kept = keeps(top / pattern.block_rows);
      for (int64_t row = top; row < std::min(out, top + pattern.block_rows); ++row) {
        for (int64_t column = left; column < std::min(in, left + pattern.block_columns); ++column)
          mask.set(row, column, kept);
      }
    }
  }
  return mask;
}

// Values of `dtype`; integers from -8 to 8 when exact. Some kept values are zero.
inline SparseTensor random_values(const SparsityPattern& pattern, DType dtype, int64_t out, int64_t in,
                                  double density, bool exact, uint64_t seed) {
  Numbers numbers(seed);
  Tensor dense = Tensor::allocate(dtype, {out, in}).value();
  for (int64_t i = 0; i < out * in; ++i) {
    float value = exact ? float(numbers.integer(-8, 8)) : numbers.real();
    if (numbers.integer(0, 19) == 0) value = 0.0f;
    if (dtype == DType::f32) {
      dense.mutable_data<float>()[i] = value;
    } else {
      dense.mutable_data<uint16_t>()[i] = dtype == DType::bf16 ? float_to_bf16(value) : float_to_f16(value);
    }
  }
  return SparseTensor::from_dense(dense, random_mask(pattern, out, in, density, seed + 1), pattern).value();
}

inline SparseTensor random_sparse_codes(const SparsityPattern& pattern, const QuantScheme& scheme,
                                        int64_t out, int64_t in, double density, bool exact, uint64_t seed) {
  const auto whole = random_quantized(scheme, out, in, exact, seed);
  return SparseTensor::from_quantized(*whole, random_mask(pattern, out, in, density, seed + 1), pattern)
      .value();
}

inline const std::vector<const char*> kPatterns{"unstructured", "2:4",       "1:4",       "3:4",        "4:8",
                                                "3:7",          "block-1x8", "block-4x4", "block-16x16"};
inline const std::vector<const char*> kCodeSchemes{
    "int8-ch",       "int4-g64",       "int4-g32-asym", "int4-g24",      "int8-g32-asym",
    "int3-g50",      "int4-ch-asym",   "int5-g64",      "int2-g16-asym", "int8-tensor",
    "int4-g64-sf32", "int4-g64-sbf16", "int4-g30-asym", "int6-g128-asym"};

// Every kind of stored weight with this pattern.
inline std::vector<SparseTensor> all_forms(const char* pattern_text, int64_t out, int64_t in, double density,
                                           bool exact, uint64_t seed) {
  const SparsityPattern pattern = pattern_of(pattern_text);
  std::vector<SparseTensor> forms;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    forms.push_back(random_values(pattern, dtype, out, in, density, exact, seed));
  for (const char* scheme : kCodeSchemes)
    forms.push_back(random_sparse_codes(pattern, scheme_of(scheme), out, in, density, exact, seed));
  return forms;
}

inline std::string name_of(const SparseTensor& weight) {
  return weight.pattern.text() + " " +
         (weight.scheme ? weight.scheme->text() : std::string(dtype_name(weight.values.dtype()))) + " " +
         weight.shape.text();
}

inline std::vector<float> dense_of(const SparseTensor& weight) {
  std::vector<float> values(size_t(weight.out() * weight.in()));
  weight.dense_rows(0, weight.out(), values.data());
  return values;
}

}  // namespace pare::cpu::test
