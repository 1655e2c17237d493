// engine/tensor/sparse_tensor.h: a matrix of which only the kept weights are stored, as values or as codes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "engine/core/result.h"
#include "engine/tensor/mask.h"
#include "engine/tensor/quantized_tensor.h"

namespace pare {

// Removed weights are exactly +0. Three places, by pattern:
//   unstructured  `mask`: one bit per weight as in Mask; kept weights of a row one after another
//   n_of_m        `indices`: for each kept weight its position within its group of m, ceil(log2 m) bits, low
//   bits
//                 first, rising within a group; rows start on a byte. Every group of m keeps exactly n; a
//                 last group of width w < m keeps w - floor((m - n) * w / m) (docs/methods.md). So slot s of
//                 a row is known without a mask.
//   block         `mask`: one bit per block, [ceil(out / block_rows), ceil(in / block_columns)], rows start
//   on a
//                 byte; kept blocks of a block row one after another, each row-major, ragged at the edges
// A "row of storage" is a row of the matrix, for blocks a row of blocks. A "slot" is the place of a kept
// weight; slots count through all rows of storage.
struct SparseTensor {
  SparsityPattern pattern;
  Shape shape;          // logical [out, in]
  Tensor mask;          // u8 (unstructured, block)
  Tensor indices;       // u8 [out, ceil(kept per row * index_bits / 8)] (n_of_m)
  Tensor row_pointers;  // i64 [rows + 1]: slots before each row; undefined for n_of_m (all rows are equal)
  // Either values of the kept weights in slot order ...
  Tensor values;  // bf16, f16 or f32 [slots]
  // ... or their codes. Groups are those of the full rows: column j belongs to group j / g whatever was
  // removed.
  std::optional<QuantScheme> scheme;
  Tensor codes;  // u8 [slots / 8 * bits]: packed low bits first. With codes, a row's slots are rounded up to
                 // a multiple of 8 (padding codes are zero), so that a row starts on a byte and slot s at bit
                 // s * bits.
  Tensor scales, zero_points, minimums, codebook;  // as in QuantizedTensor, [out, groups]
  std::optional<ActivationQuant> activation;       // with codes only, as in QuantizedTensor

  int64_t out() const { return shape[0]; }
  int64_t in() const { return shape[1]; }
  bool has_codes() const { return scheme.has_value(); }
  uint64_t size_bytes() const;  // all parts
  int64_t kept_count() const;
  double sparsity() const;         // share removed
  double bits_per_weight() const;  // of all parts, per weight of the full matrix

  int64_t storage_rows() const;
  int64_t row_begin(
      int64_t storage_row) const;  // first slot of a row of storage; row_begin(storage_rows()) = slots()
  int64_t slots() const { return row_begin(storage_rows()); }

  // From a dense matrix f32, bf16 or f16 [out, in], keeping its dtype: kept = mask (verified against the
  // pattern; kept zeros stay slots), values bit for bit. Exit 3 for a mask that breaks the pattern, 6 without
  // memory.
  static Result<SparseTensor> from_dense(const Tensor& weight, const Mask& mask,
                                         const SparsityPattern& pattern);
  // From codes; what is not kept is dropped. Exit 4 for schemes that have no sparse form (group_index).
  static Result<SparseTensor> from_quantized(const QuantizedTensor& weight, const Mask& mask,
                                             const SparsityPattern& pattern);
  Result<Mask> kept() const;        // which weights have a slot
  Result<Tensor> to_dense() const;  // values as they are; codes: f32 by the rule of dequantize()
  // The same matrix with a code for every weight, removed ones that of exactly 0. Exit 4 where a group has no
  // such code (`name` for the message). Asserts has_codes().
  Result<QuantizedTensor> to_quantized(std::string_view path, std::string_view name) const;
  void dense_rows(int64_t begin, int64_t end, float* out) const;  // rows into f32 [end - begin, in]
  // Structure and values: sizes, monotone pointers, popcounts that fit them, indices rising, finite values.
  // Exit 3, 7.
  Status validate(std::string_view path, std::string_view name) const;
};

// Bits of one index within a group of m: ceil(log2 m).
int index_bits(int m);
// Weights that every row of an n_of_m matrix keeps.
int64_t kept_per_row(const SparsityPattern& pattern, int64_t in);
// Bytes of a sparse matrix with `kept` values of `value_bits` bits, all parts. For codes an upper bound on
// the padding is included; scales are not.
uint64_t sparse_bytes(const SparsityPattern& pattern, int64_t out, int64_t in, int64_t kept, int value_bits,
                      bool are_codes);

// The smaller of both forms: a sparse tensor if it takes fewer bytes than the dense one, else nothing (also
// for types without a sparse form). Errors as from_dense().
Result<std::optional<SparseTensor>> smallest_form(const Tensor& weight, const Mask& mask,
                                                  const SparsityPattern& pattern);
// The same for codes.
Result<std::optional<SparseTensor>> smallest_form(const QuantizedTensor& weight, const Mask& mask,
                                                  const SparsityPattern& pattern);

}  // namespace pare
