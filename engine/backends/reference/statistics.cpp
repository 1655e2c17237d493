// Moments, statistics of channels and factors of moments, as defined.
#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/backends/reference/statistics_class.h"
#include "engine/core/parallel.h"
#include "engine/tensor/cholesky.h"

namespace pare::reference {

void ReferenceStatistics::second_moment(const SecondMomentArgs& a) {
  parallel_for(a.channels, [&](int64_t i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0.0;
      for (int64_t t = 0; t < a.tokens; ++t)
        sum += double(a.x[t * a.x_stride + i]) * double(a.x[t * a.x_stride + j]);
      float& moment = a.moment[i * a.channels + j];
      moment = float(double(moment) + double(a.scale) * sum);
    }
  });
}

void ReferenceStatistics::mirror_moment(const MirrorMomentArgs& a) {
  for (int64_t i = 0; i < a.channels; ++i)
    for (int64_t j = 0; j < i; ++j) a.moment[j * a.channels + i] = a.moment[i * a.channels + j];
}

void ReferenceStatistics::cross_moment(const CrossMomentArgs& a) {
  parallel_for(a.rows, [&](int64_t i) {
    for (int64_t j = 0; j < a.columns; ++j) {
      float& cross = a.cross[i * a.columns + j];
      double sum = double(cross);
      for (int64_t t = 0; t < a.tokens; ++t)
        sum += double(a.a[t * a.a_stride + i]) * double(a.b[t * a.b_stride + j]);
      cross = float(sum);
    }
  });
}

void ReferenceStatistics::column_statistics(const ColumnStatisticsArgs& a) {
  for (int64_t c = 0; c < a.channels; ++c) {
    double sample = 0.0;
    for (int64_t t = 0; t < a.tokens; ++t) {
      const float x = a.x[t * a.x_stride + c], magnitude = std::fabs(x);
      if (a.sum != nullptr) a.sum[c] += double(x);
      if (a.abs_sum != nullptr) a.abs_sum[c] += double(magnitude);
      if (a.square_sum != nullptr) a.square_sum[c] += double(x) * double(x);
      if (a.abs_max != nullptr) a.abs_max[c] = std::max(a.abs_max[c], magnitude);
      if (a.low != nullptr) a.low[c] = std::min(a.low[c], x);
      if (a.high != nullptr) a.high[c] = std::max(a.high[c], x);
      if (a.first_bad != nullptr && !std::isfinite(x))
        *a.first_bad = std::min(*a.first_bad, t * a.channels + c);
      if (a.sample_square_sum == nullptr || a.tokens_per_sample == 0) continue;
      sample += double(magnitude);
      if ((t + 1) % a.tokens_per_sample != 0) continue;
      const double mean = sample / double(a.tokens_per_sample);
      a.sample_square_sum[c] += mean * mean;
      sample = 0.0;
    }
  }
}

Result<MomentSummary> ReferenceStatistics::summarize_moment(const float* moment, int64_t n, double slack) {
  MomentSummary summary;
  for (int64_t i = 0; i < n * n; ++i) {
    if (!std::isfinite(moment[i])) {
      summary.first_not_finite = i;
      return summary;
    }
    summary.largest = std::max(summary.largest, double(std::fabs(moment[i])));
  }
  for (int64_t row = 0; row < n; ++row) {
    if (moment[row * n + row] < 0.0f && summary.first_negative < 0) summary.first_negative = row * n + row;
    for (int64_t column = 0; column < row; ++column) {
      const double difference =
          std::fabs(double(moment[row * n + column]) - double(moment[column * n + row]));
      if (difference > slack * summary.largest && summary.first_asymmetric < 0)
        summary.first_asymmetric = row * n + column;
    }
  }
  return summary;
}

Result<InverseFactorReport> ReferenceStatistics::inverse_factor(const InverseFactorArgs& a) {
  std::vector<double> matrix(size_t(a.n * a.n));
  for (int64_t i = 0; i < a.n; ++i) {
    const int64_t row = a.order != nullptr ? a.order[i] : i;
    for (int64_t j = 0; j < a.n; ++j) {
      const int64_t column = a.order != nullptr ? a.order[j] : j;
      matrix[size_t(i * a.n + j)] = double(a.moment[row * a.n + column]);
    }
    double& diagonal = matrix[size_t(i * a.n + i)];
    if (diagonal == 0.0) diagonal = a.dead_diagonal;
    diagonal += a.added;
  }
  const std::optional<InverseFactor> inverse = inverse_cholesky(std::move(matrix), a.n);
  if (!inverse) return InverseFactorReport{};
  for (int64_t i = 0; i < a.n * a.n; ++i) a.upper[i] = float(inverse->upper[size_t(i)]);
  return InverseFactorReport{.is_definite = true, .smallest_pivot = inverse->smallest_pivot};
}

Result<bool> ReferenceStatistics::divide_by_symmetric(const DivideBySymmetricArgs& a) {
  std::vector<double> right(a.right, a.right + a.rows * a.n);
  if (!pare::divide_by_symmetric(std::vector<double>(a.matrix, a.matrix + a.n * a.n), a.n, right, a.rows))
    return false;
  std::copy(right.begin(), right.end(), a.right);
  return true;
}

}  // namespace pare::reference
