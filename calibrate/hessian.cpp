#include "calibrate/hessian.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "calibrate/device_sweep.h"
#include "engine/core/text.h"
#include "engine/tensor/cholesky.h"
#include "engine/tensor/statistics_backend.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

constexpr double kSymmetrySlack = 1e-6;  // of the largest entry

Error bad_moment(std::string_view name, std::string what, std::string got) {
  return Error{.exit = Exit::numeric,
               .rule = "NU09",
               .path = {},
               .where = quote(name),
               .what = std::move(what),
               .got = std::move(got),
               .limit = {}};
}

std::string at(int64_t row, int64_t column) {
  return fmt::format("[{},{}]", row, column);
}

// Columns by falling diagonal, the smaller index first among equals.
std::vector<int32_t> falling_order(const std::vector<float>& diagonal) {
  std::vector<int32_t> order(diagonal.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return diagonal[size_t(a)] > diagonal[size_t(b)]; });
  return order;
}

// check_moment() of a moment on a GPU.
Status check_on_device(const Tensor& moment, std::string_view name) {
  const int64_t n = moment.size(0);
  PARE_TRY(
      const MomentSummary found,
      backend_for(moment.device()).statistics()->summarize_moment(moment.data<float>(), n, kSymmetrySlack));
  const auto told = [&](int64_t index) { return at(index / n, index % n); };
  if (found.first_not_finite >= 0)
    return bad_moment(name, "second moment of the inputs is not finite at " + told(found.first_not_finite),
                      "NaN or Inf");
  if (found.first_negative >= 0)
    return bad_moment(name,
                      "second moment of the inputs has a negative diagonal at " + told(found.first_negative),
                      "below zero");
  if (found.first_asymmetric >= 0)
    return bad_moment(name, "second moment of the inputs is not symmetric at " + told(found.first_asymmetric),
                      "another value");
  return {};
}

struct Inverse {
  bool is_definite = false;
  double smallest_pivot = 0.0;
};

// The factor of the damped moment in `order`, into factor.upper where it is definite.
Result<Inverse> invert(const Tensor& moment, double mean, double damping, HessianFactor& factor) {
  const int64_t n = moment.size(0);
  if (!moment.device().is_host()) {
    PARE_TRY(const Tensor order, device_order(factor.order, moment.device()));
    PARE_TRY(const Tensor upper, device_tensor(DType::f32, {n, n}, moment.device()));
    PARE_TRY(const InverseFactorReport report, backend_for(moment.device())
                                                   .statistics()
                                                   ->inverse_factor({.moment = moment.data<float>(),
                                                                     .order = order.data<int32_t>(),
                                                                     .upper = upper.mutable_data<float>(),
                                                                     .n = n,
                                                                     .dead_diagonal = mean,
                                                                     .added = damping * mean,
                                                                     .in_double = true}));
    if (report.is_definite) factor.upper = upper;
    return Inverse{report.is_definite, report.smallest_pivot};
  }
  const float* h = moment.data<float>();
  std::vector<double> matrix(size_t(n * n));
  for (int64_t row = 0; row < n; ++row) {
    const float* source = h + int64_t(factor.order[size_t(row)]) * n;
    double* target = matrix.data() + row * n;
    for (int64_t column = 0; column < n; ++column)
      target[column] = double(source[factor.order[size_t(column)]]);
    if (target[row] == 0.0) target[row] = mean;  // a dead column is decoupled from all others
    target[row] += damping * mean;
  }
  std::optional<InverseFactor> inverse = inverse_cholesky(std::move(matrix), n);
  if (!inverse) return Inverse{};
  PARE_TRY(factor.upper, Tensor::allocate(DType::f32, {n, n}));
  float* upper = factor.upper.mutable_data<float>();
  for (int64_t i = 0; i < n * n; ++i) upper[i] = float(inverse->upper[size_t(i)]);
  return Inverse{true, inverse->smallest_pivot};
}

}  // namespace

Result<std::vector<float>> moment_diagonal(const Tensor& moment) {
  const int64_t n = moment.size(0);
  std::vector<float> diagonal(static_cast<size_t>(n));
  const Tensor target = Tensor::wrap(diagonal.data(), DType::f32, {n});
  if (moment.device().is_host()) {
    for (int64_t i = 0; i < n; ++i) diagonal[size_t(i)] = moment.data<float>()[i * n + i];
    return diagonal;
  }
  PARE_TRY(const Tensor values, device_tensor(DType::f32, {n}, moment.device()));
  backend_for(moment.device())
      .copy_rows({.x = moment.raw(),
                  .out = values.mutable_raw(),
                  .rows = n,
                  .width = sizeof(float),
                  .x_stride = (n + 1) * int64_t(sizeof(float)),
                  .out_stride = sizeof(float)});
  PARE_CHECK(copy_into(values, target));
  return diagonal;
}

Status check_moment(const Tensor& moment, std::string_view name) {
  if (!moment.device().is_host()) return check_on_device(moment, name);
  const int64_t n = moment.size(0);
  const float* h = moment.data<float>();
  float largest = 0.0f;
  for (int64_t i = 0; i < n * n; ++i) {
    if (!std::isfinite(h[i])) {
      return bad_moment(name, "second moment of the inputs is not finite at " + at(i / n, i % n),
                        std::isnan(h[i]) ? "NaN" : "Inf");
    }
    largest = std::max(largest, std::abs(h[i]));
  }
  const double slack = kSymmetrySlack * double(largest);
  for (int64_t row = 0; row < n; ++row) {
    if (h[row * n + row] < 0.0f) {
      return bad_moment(name, "second moment of the inputs has a negative diagonal at " + at(row, row),
                        std::to_string(h[row * n + row]));
    }
    for (int64_t column = 0; column < row; ++column) {
      const double difference = std::abs(double(h[row * n + column]) - double(h[column * n + row]));
      if (difference > slack) {
        return bad_moment(name, "second moment of the inputs is not symmetric at " + at(row, column),
                          std::to_string(difference));
      }
    }
  }
  return {};
}

Result<HessianFactor> factor_hessian(const Tensor& moment, const HessianOptions& options,
                                     std::string_view name) {
  PARE_ASSERT(moment.shape().rank() == 2 && moment.size(0) == moment.size(1), "[hessian] {} {}", name,
              moment.shape().text());
  PARE_CHECK(check_moment(moment, name));
  const int64_t n = moment.size(0);
  PARE_TRY(const std::vector<float> diagonal, moment_diagonal(moment));
  HessianFactor factor;
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    if (diagonal[size_t(i)] == 0.0f) {
      factor.dead.push_back(int32_t(i));
    } else {
      sum += double(diagonal[size_t(i)]);
    }
  }
  const int64_t live = n - int64_t(factor.dead.size());
  factor.order.resize(size_t(n));
  std::iota(factor.order.begin(), factor.order.end(), 0);
  if (live == 0) {
    factor.all_dead = true;
    return factor;
  }
  const double mean = sum / double(live);
  if (options.act_order) factor.order = falling_order(diagonal);

  double damping = options.damping;
  for (int attempt = 0; attempt <= options.max_retries; ++attempt, damping *= 10.0) {
    PARE_TRY(const Inverse inverse, invert(moment, mean, damping, factor));
    factor.attempts.push_back({damping, inverse.smallest_pivot});
    if (inverse.is_definite) return factor;
  }
  factor.failed = true;
  return factor;
}

}  // namespace pare
