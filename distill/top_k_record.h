// distill/top_k_record.h: what a teacher cache holds of one token, as bytes.
//
//   bytes           content
//   4               log_sum, f32
//   4               log_sum at the temperature, f32; only when that is not 1
//   2 k             logits, f16 or bf16, in the order of the ids
//   ceil(b / 8)     ids, ascending, in Elias-Fano form: k times the low l bits of an id, l = floor(log2(V /
//   k)), then a
//                   row of bits in which bit (id >> l) + i is set for the i-th id. b = k l + k + ((V - 1) >>
//                   l): at most about 2 + log2(V / k) bits per id, where packing them takes ceil(log2 V).
//                   Source: Elias (1974), Fano (1971).
//
// All tokens take the same number of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "distill/top_k.h"

namespace pare {

class TopKRecord {
 public:
  // 1 <= k <= vocabulary <= 2^31.
  TopKRecord(int64_t vocabulary, int64_t k, bool has_temperature);

  size_t bytes() const { return head_bytes_ + id_bytes_; }

  // out: bytes() bytes, all of them written.
  void write(const TopKRow& row, std::span<std::byte> out) const;

  // False when the bytes are not what write() makes of any row: ids not ascending or not below the
  // vocabulary, bits that are always zero.
  bool read(std::span<const std::byte> bytes, TopKRow& row) const;

 private:
  int64_t vocabulary_, k_;
  bool has_temperature_;
  int low_bits_;
  int64_t high_bits_;  // bits of the second part
  size_t head_bytes_, id_bytes_;
};

}  // namespace pare
