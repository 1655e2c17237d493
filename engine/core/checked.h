// engine/core/checked.h: arithmetic on numbers that come from a file. One implementation, so that a size is
// never computed twice in two ways.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>

namespace pare {

// A uint64_t that remembers whether any step overflowed.
//   Checked bytes = Checked(rows) * columns * width;
//   if (!bytes.valid()) return error;
class Checked {
 public:
  constexpr Checked(uint64_t value) : value_(value) {}  // NOLINT: implicit on purpose

  constexpr Checked& operator+=(Checked other) {
    valid_ = !__builtin_add_overflow(value_, other.value_, &value_) && valid_ && other.valid_;
    return *this;
  }
  constexpr Checked& operator-=(Checked other) {
    valid_ = !__builtin_sub_overflow(value_, other.value_, &value_) && valid_ && other.valid_;
    return *this;
  }
  constexpr Checked& operator*=(Checked other) {
    valid_ = !__builtin_mul_overflow(value_, other.value_, &value_) && valid_ && other.valid_;
    return *this;
  }
  friend constexpr Checked operator+(Checked a, Checked b) { return a += b; }
  friend constexpr Checked operator-(Checked a, Checked b) { return a -= b; }
  friend constexpr Checked operator*(Checked a, Checked b) { return a *= b; }

  // The next multiple of `alignment`, a power of two.
  constexpr Checked aligned_up(uint64_t alignment) const {
    Checked sum = *this + Checked(alignment - 1);
    sum.value_ &= ~(alignment - 1);
    return sum;
  }
  // Smallest n with n * divisor >= value; divisor > 0.
  constexpr Checked divided_up(uint64_t divisor) const {
    Checked result = *this;
    result.value_ = value_ / divisor + (value_ % divisor != 0 ? 1 : 0);
    return result;
  }

  constexpr bool valid() const { return valid_; }
  constexpr uint64_t value() const { return value_; }  // meaningless unless valid()

 private:
  uint64_t value_;
  bool valid_ = true;
};

// The same number in another integer type, or nothing if it does not fit.
template <typename To, typename From>
constexpr std::optional<To> checked_cast(From value) {
  static_assert(std::is_integral_v<To> && std::is_integral_v<From>);
  const To result = static_cast<To>(value);
  if (static_cast<From>(result) != value) return std::nullopt;
  if ((result < To{}) != (value < From{})) return std::nullopt;
  return result;
}

// What a parser may still believe: a count from a file is accepted only while count x smallest item fits
// into the bytes that are really there.
class SizeBudget {
 public:
  explicit SizeBudget(uint64_t bytes) : remaining_(bytes) {}
  bool take(uint64_t count, uint64_t item_bytes) {
    const Checked need = Checked(count) * item_bytes;
    if (!need.valid() || need.value() > remaining_) return false;
    remaining_ -= need.value();
    return true;
  }
  uint64_t remaining() const { return remaining_; }

 private:
  uint64_t remaining_;
};

}  // namespace pare
