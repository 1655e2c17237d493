// engine/tensor/mask.h: which weights may be removed together, and one choice of kept weights.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/result.h"
#include "engine/tensor/tensor.h"

namespace pare {

struct SparsityPattern {
  enum class Kind : uint8_t {
    unstructured,
    n_of_m,  // keep n of each m consecutive inputs
    block,   // whole blocks of block_rows x block_columns
  };
  Kind kind = Kind::unstructured;
  int n = 0, m = 0;
  int block_rows = 0, block_columns = 0;

  bool operator==(const SparsityPattern&) const = default;
  std::string text() const;                                     // "unstructured", "2:4", "block-1x8"
  static Result<SparsityPattern> parse(std::string_view text);  // exit 2; 1 <= n < m <= 16
};

// One bit per weight of a matrix [out, in]: 1 = kept. Rows start on a byte, low bit first.
class Mask {
 public:
  static Result<Mask> all_kept(int64_t out, int64_t in);
  Mask(Tensor bits, int64_t out, int64_t in);  // u8 [out, ceil(in / 8)], unused bits zero

  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  bool kept(int64_t row, int64_t column) const;
  void set(int64_t row, int64_t column, bool kept);
  int64_t kept_count() const;
  double sparsity() const;  // share removed
  const Tensor& bits() const { return bits_; }

  // Exit 3 with the first group or block that breaks the pattern. Every group of m keeps exactly n; a ragged
  // last group of width w loses floor((m - n) * w / m), so it keeps n * w / m rounded up (docs/methods.md).
  Status verify(const SparsityPattern& pattern, std::string_view name) const;
  // weight[row, column] = +0 where not kept; f32, bf16 or f16 matrix.
  void apply(Tensor& weight) const;

 private:
  Tensor bits_;
  int64_t out_ = 0, in_ = 0;
};

}  // namespace pare
