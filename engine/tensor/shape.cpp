#include "engine/tensor/shape.h"

#include <algorithm>

#include "engine/core/assert.h"

namespace pare {

Shape::Shape(std::initializer_list<int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}

Shape::Shape(std::span<const int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
  PARE_ASSERT(sizes.size() <= size_t{kMaxRank}, "[shape] rank {}", sizes.size());
  std::copy(sizes.begin(), sizes.end(), sizes_.begin());
  for (int64_t size : sizes) PARE_ASSERT(size >= 0, "[shape] negative extent in {}", text());
}

int64_t Shape::operator[](int axis) const {
  const int index = axis < 0 ? axis + rank_ : axis;
  PARE_ASSERT(index >= 0 && index < rank_, "[shape] axis {} of {}", axis, text());
  return sizes_[size_t(index)];
}

int64_t& Shape::operator[](int axis) {
  const int index = axis < 0 ? axis + rank_ : axis;
  PARE_ASSERT(index >= 0 && index < rank_, "[shape] axis {} of {}", axis, text());
  return sizes_[size_t(index)];
}

int64_t Shape::numel() const {
  int64_t count = 1;
  for (int64_t size : sizes()) {
    PARE_ASSERT(!__builtin_mul_overflow(count, size, &count), "[shape] {} has too many elements", text());
  }
  return count;
}

bool Shape::operator==(const Shape& other) const {
  return std::ranges::equal(sizes(), other.sizes());
}

std::string Shape::text() const {
  std::string result = "[";
  for (int axis = 0; axis < rank_; ++axis) {
    if (axis > 0) result += ", ";
    result += std::to_string(sizes_[size_t(axis)]);
  }
  return result + "]";
}

}  // namespace pare
