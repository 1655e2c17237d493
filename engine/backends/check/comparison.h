// engine/backends/check/comparison.h: two results element by element, and the text when they differ.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace pare::check {

// What is being compared.
struct Subject {
  std::string op;      // "rms_norm"
  std::string types;   // "f32", "bf16 weight", "int4-g128-sym"
  std::string tested;  // descriptions of the backends
  std::string oracle;
  double slack = 1.0;
};

// A dense copy of a matrix that may have gaps between its rows.
struct Matrix {
  int64_t rows = 0, columns = 0;
  std::vector<float> values;

  Matrix(int64_t row_count, int64_t column_count)
      : rows(row_count), columns(column_count), values(size_t(row_count * column_count)) {}
  static Matrix copy_of(const float* data, int64_t rows, int64_t columns, int64_t stride);

  float* data() { return values.data(); }
  const float* row(int64_t r) const { return values.data() + r * columns; }
  float at(int64_t r, int64_t c) const { return values[size_t(r * columns + c)]; }
  double row_norm(int64_t r) const;
};

// Collects differences; finish() asserts that there were none beyond their bounds.
class Comparison {
 public:
  Comparison(Subject subject, int64_t rows, int64_t columns);

  void element(int64_t row, int64_t column, double got, double want, double bound) {
    const bool same = got == want || (std::isnan(got) && std::isnan(want));
    if (same) return;
    const double excess = std::abs(got - want) / (bound * subject_.slack);
    if (excess <= 1.0) return;  // false when either is NaN, or when the bound is 0 and they differ
    record(row, column, got, want, bound, excess);
  }
  void finish() const;

 private:
  void record(int64_t row, int64_t column, double got, double want, double bound, double excess);

  Subject subject_;
  int64_t rows_, columns_;
  int64_t failures_ = 0;
  int64_t worst_row_ = 0, worst_column_ = 0;
  double worst_excess_ = 0.0, worst_got_ = 0.0, worst_want_ = 0.0, worst_bound_ = 0.0;
};

// Compares `got` (row stride `stride`) with `want`; bound(row, column) is the bound of that element.
template <typename Bound>
void compare(Subject subject, const float* got, int64_t stride, const Matrix& want, Bound bound) {
  Comparison comparison(std::move(subject), want.rows, want.columns);
  for (int64_t r = 0; r < want.rows; ++r) {
    for (int64_t c = 0; c < want.columns; ++c) {
      comparison.element(r, c, double(got[r * stride + c]), double(want.at(r, c)), bound(r, c));
    }
  }
  comparison.finish();
}

}  // namespace pare::check
