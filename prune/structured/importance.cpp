#include "prune/structured/importance.h"

#include <algorithm>
#include <cmath>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/cholesky.h"

namespace pare {
namespace {

// Per channel: sqrt(sum over consumers of ||W_:c||^2).
std::vector<double> column_squares(std::span<const Tensor> consumers, int64_t channels) {
  std::vector<double> squares(size_t(channels), 0.0);
  for (const Tensor& weight : consumers) {
    PARE_ASSERT(weight.size(1) == channels, "[structured] {} reads {} channels", weight.shape().text(),
                channels);
    const float* w = weight.data<float>();
    for (int64_t row = 0; row < weight.size(0); ++row)
      for (int64_t c = 0; c < channels; ++c)
        squares[size_t(c)] += double(w[row * channels + c]) * double(w[row * channels + c]);
  }
  return squares;
}

// L2 norm of `values` over each unit.
std::vector<double> unit_norms(const std::vector<double>& values, int64_t width) {
  std::vector<double> norms(values.size() / size_t(width), 0.0);
  for (size_t c = 0; c < values.size(); ++c) norms[c / size_t(width)] += values[c] * values[c];
  for (double& norm : norms) norm = std::sqrt(norm);
  return norms;
}

Error not_definite(const std::string& where) {
  return Error{.exit = Exit::numeric,
               .rule = "NU08",
               .path = {},
               .where = where,
               .what = "second moment is not positive definite; raise --damping or --samples",
               .got = {},
               .limit = {}};
}

struct DampedInverse {
  std::vector<double> upper;  // U with U^T U = (H + d I)^-1
  double added = 0.0;         // d
  int64_t n = 0;

  double entry(int64_t i, int64_t j) const {
    double sum = 0.0;
    for (int64_t k = 0; k <= std::min(i, j); ++k) sum += upper[size_t(k * n + i)] * upper[size_t(k * n + j)];
    return sum;
  }
};

// Nothing when all inputs were zero.
Result<std::optional<DampedInverse>> damped_inverse(const Tensor& moment, double damping,
                                                    const std::string& where) {
  const int64_t n = moment.size(0);
  const float* h = moment.data<float>();
  std::vector<double> matrix(h, h + n * n);
  double trace = 0.0;
  for (int64_t i = 0; i < n; ++i) trace += matrix[size_t(i * n + i)];
  if (!(trace > 0.0)) return std::optional<DampedInverse>();
  const double added = damping * trace / double(n);
  for (int64_t i = 0; i < n; ++i) matrix[size_t(i * n + i)] += added;
  auto factor = inverse_cholesky(std::move(matrix), n);
  if (!factor) return not_definite(where);
  return std::optional(DampedInverse{.upper = std::move(factor->upper), .added = added, .n = n});
}

// tr(W_P ([H^-1]_PP)^-1 W_P^T): what all outputs lose without the columns P after the best correction.
Result<double> set_cost(const DampedInverse& inverse, std::span<const Tensor> consumers, int64_t first,
                        int64_t width, const std::string& where) {
  std::vector<double> block(static_cast<size_t>(width * width));
  for (int64_t i = 0; i < width; ++i)
    for (int64_t j = 0; j <= i; ++j)
      block[size_t(i * width + j)] = block[size_t(j * width + i)] = inverse.entry(first + i, first + j);
  double cost = 0.0;
  for (const Tensor& weight : consumers) {
    const int64_t rows = weight.size(0), channels = weight.size(1);
    std::vector<double> columns(static_cast<size_t>(rows * width));
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < width; ++i)
        columns[size_t(row * width + i)] = double(weight.data<float>()[row * channels + first + i]);
    std::vector<double> divided = columns;
    if (!divide_by_symmetric(block, width, divided, rows)) return not_definite(where);
    for (size_t i = 0; i < columns.size(); ++i) cost += columns[i] * divided[i];
  }
  return std::max(cost, 0.0);
}

Result<std::vector<double>> moment_scores(UnitScore score, const SiteStatistics& statistics,
                                          std::span<const Tensor> consumers, int64_t width, double damping,
                                          const std::string& where) {
  const int64_t n = statistics.channels, units = n / width;
  std::vector<double> scores(size_t(units), 0.0);
  PARE_TRY(const auto found, damped_inverse(statistics.second_moment, damping, where));
  if (!found) return scores;  // nothing was ever seen here: all alike
  const DampedInverse& inverse = *found;
  if (score == UnitScore::obs && width > 1) {
    std::vector<Status> faults(static_cast<size_t>(units));
    parallel_for(units, [&](int64_t unit) {
      const auto cost = set_cost(inverse, consumers, unit * width, width, where);
      if (cost) {
        scores[size_t(unit)] = *cost;
      } else {
        faults[size_t(unit)] = cost.error();
      }
    });
    for (const Status& fault : faults) PARE_CHECK(fault);
    return scores;
  }
  std::vector<double> diagonal(size_t(n), 0.0);  // of the inverse, row by row of U
  for (int64_t k = 0; k < n; ++k)
    for (int64_t j = k; j < n; ++j)
      diagonal[size_t(j)] += inverse.upper[size_t(k * n + j)] * inverse.upper[size_t(k * n + j)];
  if (score == UnitScore::obs) {
    const std::vector<double> squares = column_squares(consumers, n);
    for (int64_t c = 0; c < n; ++c) scores[size_t(c)] = squares[size_t(c)] / diagonal[size_t(c)];
    return scores;
  }
  // [H (H + d I)^-1]_jj = 1 - d [(H + d I)^-1]_jj, the sum over eigenvectors of l / (l + d) q_j^2.
  for (int64_t c = 0; c < n; ++c)
    scores[size_t(c / width)] += std::max(0.0, 1.0 - inverse.added * diagonal[size_t(c)]);
  return scores;
}

}  // namespace

StatisticSet statistics_for(UnitScore score) {
  switch (score) {
    case UnitScore::activation:
      return {Statistic::sample_absmean};
    case UnitScore::weighted:
      return {Statistic::absmean};
    case UnitScore::obs:
    case UnitScore::eigen:
      return {Statistic::second_moment};
    default:
      return {};
  }
}

Result<std::vector<double>> unit_scores(UnitScore score, const SiteStatistics& statistics,
                                        std::span<const Tensor> consumers, int64_t width, double damping,
                                        const std::string& where) {
  const int64_t channels = statistics.channels;
  PARE_ASSERT(width > 0 && channels % width == 0, "[structured] {} channels in units of {}", channels, width);
  switch (score) {
    case UnitScore::activation: {
      std::vector<double> values = statistics.sample_square_sum;
      PARE_ASSERT(int64_t(values.size()) == channels, "[structured] {} was not collected", "sample_absmean");
      for (double& value : values) value = std::sqrt(value);
      return unit_norms(values, width);
    }
    case UnitScore::weighted: {
      std::vector<double> values = column_squares(consumers, channels);
      PARE_ASSERT(int64_t(statistics.abs_sum.size()) == channels, "[structured] {} was not collected",
                  "absmean");
      for (size_t c = 0; c < values.size(); ++c)
        values[c] =
            std::sqrt(values[c]) * statistics.abs_sum[c] / double(std::max<int64_t>(1, statistics.tokens));
      return unit_norms(values, width);
    }
    case UnitScore::obs:
    case UnitScore::eigen:
      PARE_ASSERT(statistics.second_moment.defined(), "[structured] {} was not collected", "second_moment");
      return moment_scores(score, statistics, consumers, width, damping, where);
    default:
      PARE_ASSERT(false, "[structured] {} is not a score of a site", unit_score_name(score));
  }
  return std::vector<double>();
}

namespace {

// Adds the squares of one tensor's slices along `axis` (logical) to the units.
Status add_squares(const WeightSource& source, const TensorSpec& spec, Axis axis, int64_t begin,
                   int64_t units, int64_t width, std::vector<double>& squares) {
  PARE_TRY(const WeightData data, source.load(spec.name));
  PARE_TRY(Tensor values, converted(data.dense(), DType::f32));
  source.release(spec.name);
  const bool is_vector = values.shape().rank() == 1;
  const bool along_rows = is_vector || (axis == Axis::out) != spec.transposed;
  const int64_t rows = values.size(0), columns = is_vector ? 1 : values.size(1);
  const float* v = values.data<float>();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t index = (along_rows ? row : column) - begin;
      if (index < 0 || index >= units * width) continue;
      const double value = double(v[row * columns + column]);
      squares[size_t(index / width)] += value * value;
    }
  }
  return {};
}

}  // namespace

Result<std::vector<double>> squared_norms(const WeightSource& source, const ModelDescription& model,
                                          int block, UnitKind kind) {
  const ModelConfig& config = model.config;
  const auto size_of = [&](UnitKind unit, int index) -> std::pair<int64_t, int64_t> {  // units, width
    if (unit == UnitKind::hidden) return {config.hidden_size, 1};
    if (unit == UnitKind::vocabulary) return {config.vocabulary_size, 1};
    const BlockConfig& shape = config.blocks[size_t(index)];
    if (unit == UnitKind::channel) return {shape.intermediate_size, 1};
    return {unit == UnitKind::query_head ? shape.heads : shape.kv_heads, shape.head_dim};
  };
  std::vector<double> squares(size_t(size_of(kind, block).first), 0.0);
  for (const TensorSpec& spec : model.tensors) {
    if (block >= 0 && spec.block != block) continue;
    const Role role = spec.role == Role::bias ? model.find(spec.owner)->role : spec.role;
    for (const Axis axis : {Axis::out, Axis::in}) {
      if (spec.role == Role::bias && axis == Axis::in) continue;
      int64_t begin = 0;
      for (const UnitKind along : units_along(role, axis)) {
        const auto [units, width] = size_of(along, spec.block);
        if (along == kind) PARE_CHECK(add_squares(source, spec, axis, begin, units, width, squares));
        begin += units * width;
      }
    }
  }
  return squares;
}

}  // namespace pare
