#include "calibrate/low_rank.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "calibrate/hessian.h"
#include "calibrate/output_error.h"
#include "engine/core/random.h"
#include "engine/core/text.h"
#include "engine/tensor/symmetric_eigen.h"
#include "engine/tensor/tensor_scan.h"

namespace pare {
namespace {

// Eigenvalues of H below this share of the largest are raised to it where H must be inverted in effect
// (out > in): the order among components that no input has seen is then that of the weights.
constexpr double kMomentFloor = 1e-14;

MatrixF64 doubles(const Tensor& tensor) {
  const float* values = tensor.data<float>();
  return MatrixF64(values, values + tensor.numel());
}

Error no_solution(std::string_view name, int64_t order) {
  return Error{.exit = Exit::numeric,
               .rule = "NU09",
               .path = {},
               .where = quote(name),
               .what = "the eigenvalues of the outputs' second moment did not converge",
               .got = fmt::format("order {}", order),
               .limit = {}};
}

double sum_of(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value;
  return sum;
}

// Keeps the first components that were asked for. Rounding may leave small negative eigenvalues.
void take_spectrum(std::vector<double> values, MatrixF64 directions, int64_t out,
                   const ComponentOptions& options, OutputComponents& components) {
  for (double& value : values) value = std::max(value, 0.0);
  components.energy = sum_of(values);
  const auto count =
      std::min<int64_t>(int64_t(values.size()), std::max<int64_t>(0, options.rank.value_or(INT64_MAX)));
  values.resize(size_t(count));
  directions.resize(size_t(count * out));
  components.spectrum = std::move(values);
  components.directions = std::move(directions);
}

// out <= in: eigenvectors of W H W^T.
Status by_outputs(const MatrixF64& weight, const MatrixF64& moment, int64_t out, int64_t in,
                  const ComponentOptions& options, std::string_view name, OutputComponents& components) {
  MatrixF64 outputs = moment.empty()
                          ? product_nt_f64(weight, weight, out, in, out)
                          : product_nt_f64(product_f64(weight, moment, out, in, in), weight, out, in, out);
  auto eigen = symmetric_eigen(std::move(outputs), out);
  if (!eigen) return no_solution(name, out);
  take_spectrum(std::move(eigen->values), std::move(eigen->vectors), out, options, components);
  return {};
}

// S^T with S S^T = H, rows sqrt(lambda_i) q_i.
std::optional<MatrixF64> root_of(MatrixF64 moment, int64_t in) {
  auto eigen = symmetric_eigen(std::move(moment), in);
  if (!eigen) return std::nullopt;
  const double floor = kMomentFloor * std::max(0.0, eigen->values.front());
  for (int64_t i = 0; i < in; ++i) {
    const double root = std::sqrt(std::max(eigen->values[size_t(i)], floor));
    for (int64_t j = 0; j < in; ++j) eigen->vectors[size_t(i * in + j)] *= root;
  }
  return std::move(eigen->vectors);
}

// out > in: (W S)^T (W S) has the same eigenvalues and is smaller; u_k = W S v_k / sigma_k.
Status by_inputs(const MatrixF64& weight, MatrixF64 moment, int64_t out, int64_t in,
                 const ComponentOptions& options, std::string_view name, OutputComponents& components) {
  MatrixF64 inner = product_tn_f64(weight, weight, in, out, in);
  std::optional<MatrixF64> root;
  if (!moment.empty()) {
    root = root_of(std::move(moment), in);
    if (!root) return no_solution(name, in);
    inner = product_nt_f64(product_f64(*root, inner, in, in, in), *root, in, in, in);
  }
  auto eigen = symmetric_eigen(std::move(inner), in);
  if (!eigen) return no_solution(name, in);
  const auto count = std::clamp<int64_t>(options.rank.value_or(in), 0, in);
  eigen->vectors.resize(size_t(count * in));
  if (root) eigen->vectors = product_f64(eigen->vectors, *root, count, in, in);
  MatrixF64 directions = product_nt_f64(eigen->vectors, weight, count, in, out);
  // Each to length one first, so that small components keep their digits.
  for (int64_t k = 0; k < count; ++k) {
    double* row = directions.data() + k * out;
    double square = 0.0;
    for (int64_t i = 0; i < out; ++i) square += row[i] * row[i];
    if (square > 0.0)
      for (int64_t i = 0; i < out; ++i) row[i] /= std::sqrt(square);
  }
  orthonormalize_rows(directions, count, out);
  for (int64_t k = 0; k < count; ++k) fix_sign(directions.data() + k * out, out);
  take_spectrum(std::move(eigen->values), std::move(directions), out, options, components);
  return {};
}

// The leading components alone, by subspace iteration on W H W^T from a random start. Source: Halko,
// Martinsson, Tropp, "Finding structure with randomness" (2011), algorithm 4.4.
Status by_iteration(const MatrixF64& weight, const MatrixF64& moment, int64_t out, int64_t in,
                    const ComponentOptions& options, std::string_view name, OutputComponents& components) {
  const int64_t width = *options.rank + options.oversample;
  const auto weighted = [&](MatrixF64 rows) {
    return moment.empty() ? std::move(rows) : product_f64(rows, moment, width, in, in);
  };
  const Random random(options.seed, RandomPurpose::random_projection, name);
  MatrixF64 probes(size_t(width * in));
  for (size_t i = 0; i < probes.size(); ++i) probes[i] = double(random.normal(i));
  MatrixF64 basis = product_nt_f64(weighted(std::move(probes)), weight, width, in, out);
  orthonormalize_rows(basis, width, out);
  for (int i = 0; i < options.iterations; ++i) {
    basis = product_nt_f64(weighted(product_f64(basis, weight, width, out, in)), weight, width, in, out);
    orthonormalize_rows(basis, width, out);
  }
  const MatrixF64 seen = product_f64(basis, weight, width, out, in);
  auto eigen = symmetric_eigen(product_nt_f64(weighted(seen), seen, width, in, width), width);
  if (!eigen) return no_solution(name, width);
  MatrixF64 directions = product_f64(eigen->vectors, basis, width, width, out);
  for (int64_t k = 0; k < width; ++k) fix_sign(directions.data() + k * out, out);
  take_spectrum(std::move(eigen->values), std::move(directions), out, options, components);
  components.is_exact = false;
  return {};
}

bool has_inputs(const Tensor& moment) {
  if (!moment.defined()) return false;
  const int64_t n = moment.size(0);
  for (int64_t i = 0; i < n; ++i)
    if (moment.data<float>()[i * n + i] > 0.0f) return true;
  return false;
}

}  // namespace

double OutputComponents::kept_energy(int64_t rank) const {
  if (!(energy > 0.0)) return 1.0;
  double kept = 0.0;
  for (int64_t k = 0; k < std::min(rank, count()); ++k) kept += spectrum[size_t(k)];
  return std::min(1.0, kept / energy);
}

double OutputComponents::relative_error(int64_t rank) const {
  if (!(energy > 0.0)) return 0.0;
  // From the small end where it is known: the difference to 1 would lose its digits.
  double lost = 0.0;
  for (int64_t k = count(); k-- > std::max<int64_t>(0, rank);) lost += spectrum[size_t(k)];
  lost += std::max(0.0, energy - sum_of(spectrum));
  return std::sqrt(std::min(1.0, lost / energy));
}

Result<OutputComponents> output_components(const Tensor& weight, const Tensor& moment,
                                           const ComponentOptions& options, std::string_view name) {
  const int64_t out = weight.size(0), in = weight.size(1), order = std::min(out, in);
  PARE_ASSERT(out > 0 && in > 0, "[low_rank] {} {}", name, weight.shape().text());
  PARE_ASSERT(!moment.defined() || moment.shape() == Shape({in, in}), "[low_rank] {} {} and a moment {}",
              name, weight.shape().text(), moment.shape().text());
  PARE_CHECK(require_finite(weight, std::string(name), {}));
  if (moment.defined()) PARE_CHECK(check_moment(moment, name));
  OutputComponents components;
  components.is_weighted = has_inputs(moment);
  const bool is_small = order <= options.exact_order;
  const bool is_thin = options.rank && (*options.rank + options.oversample) * 4 <= order;
  if (!(is_thin && !is_small) && order > kMaxEigenOrder) {
    return Error{.exit = Exit::unsupported,
                 .rule = {},
                 .path = {},
                 .where = quote(name),
                 .what = "matrix too large for all of its singular values; give a rank (rank=64)",
                 .got = fmt::format("{} x {}", out, in),
                 .limit = std::to_string(kMaxEigenOrder)};
  }
  const MatrixF64 values = doubles(weight);
  MatrixF64 second = components.is_weighted ? doubles(moment) : MatrixF64();
  if (is_thin && !is_small) {
    PARE_CHECK(by_iteration(values, second, out, in, options, name, components));
    if (components.is_weighted) {
      PARE_TRY(components.energy, output_energy(weight, moment));
    } else {
      components.energy = 0.0;
      for (const double value : values) components.energy += value * value;
    }
  } else if (out <= in) {
    PARE_CHECK(by_outputs(values, second, out, in, options, name, components));
  } else {
    PARE_CHECK(by_inputs(values, std::move(second), out, in, options, name, components));
  }
  return components;
}

Result<LowRankTensor> factors_of(const Tensor& weight, const OutputComponents& components, int64_t rank,
                                 DType dtype, std::string_view name) {
  const int64_t out = weight.size(0), in = weight.size(1);
  PARE_ASSERT(rank >= 1 && rank <= components.count(), "[low_rank] {} rank {} of {}", name, rank,
              components.count());
  const MatrixF64 directions(components.directions.begin(),
                             components.directions.begin() + std::ptrdiff_t(rank * out));
  const MatrixF64 rows = product_f64(directions, doubles(weight), rank, out, in);
  PARE_TRY(Tensor left, Tensor::allocate(DType::f32, {out, rank}));
  PARE_TRY(Tensor right, Tensor::allocate(DType::f32, {rank, in}));
  for (int64_t k = 0; k < rank; ++k) {
    double square = 0.0;
    for (int64_t j = 0; j < in; ++j) square += rows[size_t(k * in + j)] * rows[size_t(k * in + j)];
    const double scale = square > 0.0 ? std::sqrt(std::sqrt(square)) : 1.0;  // u_k has length one
    for (int64_t i = 0; i < out; ++i)
      left.mutable_data<float>()[i * rank + k] = float(directions[size_t(k * out + i)] * scale);
    for (int64_t j = 0; j < in; ++j)
      right.mutable_data<float>()[k * in + j] = float(rows[size_t(k * in + j)] / scale);
  }
  LowRankTensor factors{.shape = weight.shape(), .left = {}, .right = {}, .base = {}};
  for (const auto& [floats, stored] : {std::pair(&left, &factors.left), {&right, &factors.right}}) {
    int64_t first = 0;
    if (const int64_t count = count_overflow(*floats, dtype, &first)) {
      return Error{.exit = Exit::numeric,
                   .rule = "NU03",
                   .path = {},
                   .where = quote(name) + index_text(floats->shape(), first),
                   .what = "a low-rank factor is too large for the type of the weights",
                   .got = std::to_string(count) + " values",
                   .limit = std::string(dtype_name(dtype))};
    }
    PARE_TRY(*stored, converted(*floats, dtype));
  }
  return factors;
}

Result<LowRankTensor> nearest_low_rank(const Tensor& weight, const Tensor& moment, int64_t rank, DType dtype,
                                       std::string_view name) {
  ComponentOptions options;
  options.rank = std::min({rank, weight.size(0), weight.size(1)});
  PARE_TRY(const OutputComponents components, output_components(weight, moment, options, name));
  return factors_of(weight, components, *options.rank, dtype, name);
}

}  // namespace pare
