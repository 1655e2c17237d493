#include "distill/top_k_record.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/core/assert.h"

namespace pare {
namespace {

static_assert(std::endian::native == std::endian::little, "records are written as they lie in memory");

// Up to 8 bytes from `at` on as a number; bytes behind the end are zero.
uint64_t word_at(std::span<const std::byte> bytes, size_t at) {
  uint64_t word = 0;
  if (at + 8 <= bytes.size()) {
    std::memcpy(&word, bytes.data() + at, 8);
  } else if (at < bytes.size()) {
    std::memcpy(&word, bytes.data() + at, bytes.size() - at);
  }
  return word;
}

// Sets bits from position `bit` on; they are zero. value < 2^57.
void set_bits(std::span<std::byte> bytes, int64_t bit, uint64_t value) {
  value <<= bit % 8;
  for (size_t at = size_t(bit / 8); value != 0; ++at, value >>= 8) bytes[at] |= std::byte(value & 0xff);
}

}  // namespace

TopKRecord::TopKRecord(int64_t vocabulary, int64_t k, bool has_temperature)
    : vocabulary_(vocabulary), k_(k), has_temperature_(has_temperature) {
  PARE_ASSERT(k >= 1 && k <= vocabulary && vocabulary <= int64_t(1) << 31, "[top_k_record] {} of {}", k,
              vocabulary);
  low_bits_ = int(std::bit_width(uint64_t(vocabulary / k))) - 1;
  high_bits_ = k + ((vocabulary - 1) >> low_bits_);
  head_bytes_ = size_t(has_temperature ? 8 : 4) + 2 * size_t(k);
  id_bytes_ = size_t((k * low_bits_ + high_bits_ + 7) / 8);
}

void TopKRecord::write(const TopKRow& row, std::span<std::byte> out) const {
  PARE_ASSERT(out.size() == bytes() && int64_t(row.ids.size()) == k_, "[top_k_record] {} bytes", out.size());
  std::byte* at = out.data();
  std::memcpy(at, &row.log_sum, 4);
  at += 4;
  if (has_temperature_) {
    std::memcpy(at, &row.log_sum_at_temperature, 4);
    at += 4;
  }
  std::memcpy(at, row.logits.data(), 2 * row.logits.size());
  const std::span<std::byte> ids = out.subspan(head_bytes_);
  std::fill(ids.begin(), ids.end(), std::byte(0));
  const int64_t high_part = k_ * low_bits_;
  const uint64_t low_mask = (uint64_t(1) << low_bits_) - 1;
  for (int64_t i = 0; i < k_; ++i) {
    const auto id = uint64_t(row.ids[size_t(i)]);
    set_bits(ids, i * low_bits_, id & low_mask);
    set_bits(ids, high_part + int64_t(id >> low_bits_) + i, 1);
  }
}

bool TopKRecord::read(std::span<const std::byte> bytes, TopKRow& row) const {
  PARE_ASSERT(bytes.size() == this->bytes(), "[top_k_record] {} bytes", bytes.size());
  row.ids.resize(size_t(k_));
  row.logits.resize(size_t(k_));
  const std::byte* at = bytes.data();
  std::memcpy(&row.log_sum, at, 4);
  row.log_sum_at_temperature = row.log_sum;
  at += 4;
  if (has_temperature_) {
    std::memcpy(&row.log_sum_at_temperature, at, 4);
    at += 4;
  }
  std::memcpy(row.logits.data(), at, 2 * row.logits.size());

  const std::span<const std::byte> ids = bytes.subspan(head_bytes_);
  const uint64_t low_mask = (uint64_t(1) << low_bits_) - 1;
  const int64_t high_part = k_ * low_bits_;
  int64_t found = 0, last = -1;
  // 32 bits of the second part at a time.
  for (int64_t position = 0; position < high_bits_; position += 32) {
    const int64_t bit = high_part + position;
    uint64_t word = (word_at(ids, size_t(bit / 8)) >> (bit % 8)) & 0xffffffffu;
    if (high_bits_ - position < 32) word &= (uint64_t(1) << (high_bits_ - position)) - 1;
    for (; word != 0; word &= word - 1) {
      if (found == k_) return false;
      const int64_t low_bit = found * low_bits_;
      const uint64_t low = (word_at(ids, size_t(low_bit / 8)) >> (low_bit % 8)) & low_mask;
      const int64_t high = position + std::countr_zero(word) - found;
      const int64_t id = (high << low_bits_) | int64_t(low);
      if (id <= last || id >= vocabulary_) return false;
      row.ids[size_t(found++)] = int32_t(id);
      last = id;
    }
  }
  if (found != k_) return false;
  const int64_t used = high_part + high_bits_;  // of the last byte
  return used % 8 == 0 || (uint8_t(ids[size_t(used / 8)]) >> (used % 8)) == 0;
}

}  // namespace pare
