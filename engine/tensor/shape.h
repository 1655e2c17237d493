// engine/tensor/shape.h: extents of a tensor, outermost first.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace pare {

class Shape {
 public:
  static constexpr int kMaxRank = 8;

  Shape() = default;  // rank 0: one element
  Shape(std::initializer_list<int64_t> sizes);
  explicit Shape(std::span<const int64_t> sizes);

  int rank() const { return rank_; }
  int64_t operator[](int axis) const;  // negative counts from the end
  int64_t& operator[](int axis);
  int64_t numel() const;  // product; 1 for rank 0
  std::span<const int64_t> sizes() const { return {sizes_.data(), size_t(rank_)}; }
  bool operator==(const Shape& other) const;
  std::string text() const;  // "[4096, 11008]"

 private:
  std::array<int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

}  // namespace pare
