#include "engine/backends/check/comparison.h"

#include <algorithm>

#include "engine/core/assert.h"

namespace pare::check {

Matrix Matrix::copy_of(const float* data, int64_t rows, int64_t columns, int64_t stride) {
  Matrix copy(rows, columns);
  for (int64_t r = 0; r < rows; ++r) std::copy_n(data + r * stride, columns, copy.data() + r * columns);
  return copy;
}

double Matrix::row_norm(int64_t r) const {
  double squares = 0.0;
  for (int64_t c = 0; c < columns; ++c) squares += double(at(r, c)) * double(at(r, c));
  return std::sqrt(squares);
}

Comparison::Comparison(Subject subject, int64_t rows, int64_t columns)
    : subject_(std::move(subject)), rows_(rows), columns_(columns) {}

void Comparison::record(int64_t row, int64_t column, double got, double want, double bound, double excess) {
  ++failures_;
  const double rank = std::isnan(excess) ? INFINITY : excess;  // a NaN on one side is as bad as it gets
  if (failures_ > 1 && rank <= worst_excess_) return;
  worst_excess_ = rank;
  worst_row_ = row, worst_column_ = column;
  worst_got_ = got, worst_want_ = want, worst_bound_ = bound;
}

void Comparison::finish() const {
  PARE_ASSERT(failures_ == 0,
              "[check] {} {} [{}, {}]: {} of {} values beyond the bound; worst at [{}, {}]: {} gives {:.9g}, "
              "{} gives "
              "{:.9g}, difference {:.3g}, bound {:.3g}",
              subject_.op, subject_.types, rows_, columns_, failures_, rows_ * columns_, worst_row_,
              worst_column_, subject_.tested, worst_got_, subject_.oracle, worst_want_,
              std::abs(worst_got_ - worst_want_), worst_bound_ * subject_.slack);
}

}  // namespace pare::check
