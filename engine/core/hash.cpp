#include "engine/core/hash.h"

// The whole library is compiled into this file, so that no shared library decides which bytes we accept.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <fmt/core.h>

#include <new>

namespace pare {
namespace {

Hash128 from_xxh(XXH128_hash_t hash) {
  return {hash.high64, hash.low64};
}

}  // namespace

std::string Hash128::hex() const {
  return fmt::format("{:016x}{:016x}", high, low);
}

std::array<std::byte, 16> Hash128::canonical() const {
  std::array<std::byte, 16> bytes{};
  for (size_t i = 0; i < 8; ++i) {
    const size_t shift = 56 - 8 * i;
    bytes[i] = static_cast<std::byte>(high >> shift);
    bytes[8 + i] = static_cast<std::byte>(low >> shift);
  }
  return bytes;
}

Hash128 Hash128::from_canonical(std::span<const std::byte, 16> bytes) {
  Hash128 hash;
  for (size_t i = 0; i < 8; ++i) {
    hash.high = hash.high << 8 | static_cast<uint64_t>(bytes[i]);
    hash.low = hash.low << 8 | static_cast<uint64_t>(bytes[8 + i]);
  }
  return hash;
}

std::optional<Hash128> Hash128::from_hex(std::string_view text) {
  if (text.size() != 32) return std::nullopt;
  Hash128 hash;
  for (size_t i = 0; i < 32; ++i) {
    const char c = text[i];
    // Lower case only: the form that hex() writes.
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return std::nullopt;
    uint64_t& half = i < 16 ? hash.high : hash.low;
    half = half << 4 | static_cast<uint64_t>(digit);
  }
  return hash;
}

Hash128 xxh3_128(std::span<const std::byte> bytes) {
  return from_xxh(XXH3_128bits(bytes.data(), bytes.size()));
}

uint64_t xxh3_64_seeded(std::string_view text, uint64_t seed) {
  return XXH3_64bits_withSeed(text.data(), text.size(), seed);
}

struct Xxh3Stream::State {
  alignas(64) XXH3_state_t state;  // the library reads it with aligned vector loads
};

Xxh3Stream::Xxh3Stream() : state_(std::make_unique<State>()) {
  XXH3_128bits_reset(&state_->state);
}
Xxh3Stream::~Xxh3Stream() = default;
Xxh3Stream::Xxh3Stream(Xxh3Stream&&) noexcept = default;
Xxh3Stream& Xxh3Stream::operator=(Xxh3Stream&&) noexcept = default;

void Xxh3Stream::update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(&state_->state, bytes.data(), bytes.size());
}

Hash128 Xxh3Stream::digest() const {
  return from_xxh(XXH3_128bits_digest(&state_->state));
}

}  // namespace pare
