#include "calibrate/hessian.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/text.h"
#include "engine/tensor/cholesky.h"

namespace pare {
namespace {

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
std::vector<int32_t> falling_order(const Tensor& moment) {
  const int64_t n = moment.size(0);
  const float* h = moment.data<float>();
  std::vector<int32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return h[a * n + a] > h[b * n + b]; });
  return order;
}

}  // namespace

Status check_moment(const Tensor& moment, std::string_view name) {
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
  const double slack = 1e-6 * double(largest);
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
  const float* h = moment.data<float>();
  HessianFactor factor;
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    if (h[i * n + i] == 0.0f) {
      factor.dead.push_back(int32_t(i));
    } else {
      sum += double(h[i * n + i]);
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
  if (options.act_order) factor.order = falling_order(moment);

  double damping = options.damping;
  for (int attempt = 0; attempt <= options.max_retries; ++attempt, damping *= 10.0) {
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
    factor.attempts.push_back({damping, inverse ? inverse->smallest_pivot : 0.0});
    if (!inverse) continue;
    PARE_TRY(factor.upper, Tensor::allocate(DType::f32, {n, n}));
    float* upper = factor.upper.mutable_data<float>();
    for (int64_t i = 0; i < n * n; ++i) upper[i] = float(inverse->upper[size_t(i)]);
    return factor;
  }
  factor.failed = true;
  return factor;
}

}  // namespace pare
