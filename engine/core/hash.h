// engine/core/hash.h: XXH3-128 for accidents, SHA-256 for digests that people compare.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace pare {

// An XXH3-128 value. Stored big-endian (the canonical form), printed as 32 hex digits.
struct Hash128 {
  uint64_t high = 0, low = 0;
  auto operator<=>(const Hash128&) const = default;

  std::string hex() const;
  std::array<std::byte, 16> canonical() const;
  static Hash128 from_canonical(std::span<const std::byte, 16> bytes);
  static std::optional<Hash128> from_hex(std::string_view text);
};

Hash128 xxh3_128(std::span<const std::byte> bytes);
inline Hash128 xxh3_128(std::string_view text) {
  return xxh3_128(std::as_bytes(std::span(text.data(), text.size())));
}

// XXH3-64 with a seed, for tables in memory; never stored.
uint64_t xxh3_64_seeded(std::string_view text, uint64_t seed);

// XXH3-128 of a stream.
class Xxh3Stream {
 public:
  Xxh3Stream();
  ~Xxh3Stream();
  Xxh3Stream(Xxh3Stream&&) noexcept;
  Xxh3Stream& operator=(Xxh3Stream&&) noexcept;
  void update(std::span<const std::byte> bytes);
  Hash128 digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// SHA-256 of a stream (FIPS 180-4).
class Sha256 {
 public:
  Sha256();
  void update(std::span<const std::byte> bytes);
  std::array<std::byte, 32> digest() const;
  std::string hex() const;  // 64 digits

 private:
  void compress(const std::byte* block);
  std::array<uint32_t, 8> state_;
  std::array<std::byte, 64> buffer_;
  uint64_t total_bytes_ = 0;
};

}  // namespace pare
