#include "prune/structured/repair.h"

#include <algorithm>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/cholesky.h"
#include "engine/tensor/ops.h"
#include "prune/structured/select.h"
#include "prune/structured/units.h"

namespace pare {
namespace {

constexpr int kRetries = 5;

// left [m, k] times right^T, right [n, k].
Result<Tensor> product(const Tensor& left, const Tensor& right) {
  PARE_TRY(Tensor out, Tensor::allocate(DType::f32, {left.size(0), right.size(0)}));
  PARE_TRY(Workspace workspace, Workspace::reserve(ops::matmul_workspace_bytes(Device::cpu(), left.size(0),
                                                                               right.size(0), left.size(1)),
                                                   Device::cpu()));
  ops::matmul(left, right, Tensor(), /*accumulate=*/false, out, workspace);
  return out;
}

// What the kept columns have to make up for: W_P H_PS, or W_o C_S - W_S H_SS. [out, kept]
Result<Tensor> missing(const RepairInput& input, const Tensor& moment) {
  const int64_t in = input.weight.size(1);
  const std::vector<int64_t> removed = others(input.kept, in);
  if (input.cross == nullptr) {
    PARE_TRY(const Tensor weight, sliced(input.weight, std::nullopt, removed));
    PARE_TRY(const Tensor coupling, sliced(moment, input.kept, removed));
    return product(weight, coupling);
  }
  PARE_TRY(const Tensor cross, sliced(*input.cross, std::nullopt, input.kept));
  PARE_TRY(const Tensor turned, transposed(cross));
  PARE_TRY(Tensor target, product(*input.original_weight, turned));
  PARE_TRY(const Tensor weight, sliced(input.weight, std::nullopt, input.kept));
  PARE_TRY(const Tensor square, sliced(moment, input.kept, input.kept));
  PARE_TRY(const Tensor now, product(weight, square));
  float* t = target.mutable_data<float>();
  const float* n = now.data<float>();
  for (int64_t i = 0; i < target.numel(); ++i) t[i] -= n[i];
  return target;
}

double mean_diagonal(const Tensor& moment) {
  const int64_t n = moment.size(0);
  double trace = 0.0;
  for (int64_t i = 0; i < n; ++i) trace += double(moment.data<float>()[i * n + i]);
  return trace / double(n);
}

}  // namespace

Result<Tensor> centred(const Tensor& moment, const std::vector<double>& sum, int64_t tokens) {
  const int64_t n = moment.size(0);
  PARE_ASSERT(int64_t(sum.size()) == n && tokens > 0, "[structured] mean of {} channels over {} tokens",
              sum.size(), tokens);
  PARE_TRY(Tensor result, Tensor::allocate(DType::f32, moment.shape()));
  const float* h = moment.data<float>();
  float* c = result.mutable_data<float>();
  parallel_ranges(n, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < n; ++j)
        c[i * n + j] = float(double(h[i * n + j]) - sum[size_t(i)] * sum[size_t(j)] / double(tokens));
  });
  // A channel that never moves has no variance; rounding may say it is negative.
  for (int64_t i = 0; i < n; ++i) c[i * n + i] = std::max(c[i * n + i], 0.0f);
  return result;
}

Result<Tensor> widened(const Tensor& weight, const std::vector<int64_t>& kept, int64_t in) {
  const int64_t out = weight.size(0), columns = weight.size(1);
  PARE_TRY(Tensor result, Tensor::allocate(DType::f32, {out, in}));
  const float* from = weight.data<float>();
  float* to = result.mutable_data<float>();
  for (int64_t row = 0; row < out; ++row)
    for (int64_t j = 0; j < columns; ++j) to[row * in + kept[size_t(j)]] = from[row * columns + j];
  return result;
}

Result<Tensor> mean_correction(const Tensor& weight, const std::vector<double>& sum, int64_t tokens,
                               const std::vector<int64_t>& kept) {
  const int64_t out = weight.size(0), in = weight.size(1);
  const std::vector<int64_t> removed = others(kept, in);
  PARE_TRY(Tensor bias, Tensor::allocate(DType::f32, {out}));
  for (int64_t row = 0; row < out; ++row) {
    double moved = 0.0;
    for (const int64_t j : removed)
      moved +=
          double(weight.data<float>()[row * in + j]) * sum[size_t(j)] / double(std::max<int64_t>(1, tokens));
    bias.mutable_data<float>()[row] = float(moved);
  }
  return bias;
}

Result<Repaired> repaired(const RepairInput& input, const std::string& where) {
  const int64_t out = input.weight.size(0), in = input.weight.size(1), left = int64_t(input.kept.size());
  PARE_ASSERT(left > 0 && input.moment.size(0) == in, "[structured] repair of {} with {} kept, moment {}",
              input.weight.shape().text(), left, input.moment.shape().text());
  PARE_ASSERT(input.cross == nullptr || (input.sum == nullptr && input.original_weight != nullptr),
              "[structured] a match of the original has no {}", "centred form");
  Tensor moment = input.moment;
  if (input.sum != nullptr) {
    PARE_TRY(moment, centred(input.moment, *input.sum, input.tokens));
  }
  Repaired result;
  PARE_TRY(result.weight, sliced(input.weight, std::nullopt, input.kept));
  if (left == in && input.cross == nullptr) {  // a new tensor, as always
    PARE_TRY(result.weight, converted(input.weight, DType::f32));
  }
  const double mean = mean_diagonal(moment);
  result.has_data = mean > 0.0;
  if (result.has_data && (left < in || input.cross != nullptr)) {
    PARE_TRY(const Tensor gap, missing(input, moment));
    PARE_TRY(const Tensor square, sliced(moment, input.kept, input.kept));
    const float* h = square.data<float>();
    std::vector<double> correction;
    result.damping = input.damping;
    for (;; result.damping = std::max(result.damping, 1e-6) * 10.0, ++result.retries) {
      std::vector<double> matrix(h, h + left * left);
      for (int64_t i = 0; i < left; ++i) matrix[size_t(i * left + i)] += result.damping * mean;
      correction.assign(gap.data<float>(), gap.data<float>() + out * left);
      if (divide_by_symmetric(std::move(matrix), left, correction, out)) break;
      if (result.retries < kRetries) continue;
      return Error{.exit = Exit::numeric,
                   .rule = "NU08",
                   .path = {},
                   .where = where,
                   .what = "second moment is not positive definite; raise --damping or --samples",
                   .got = {},
                   .limit = {}};
    }
    PARE_TRY(Tensor corrected, Tensor::allocate(DType::f32, {out, left}));
    const float* w = result.weight.data<float>();
    float* c = corrected.mutable_data<float>();
    for (int64_t i = 0; i < out * left; ++i) c[i] = float(double(w[i]) + correction[size_t(i)]);
    result.weight = std::move(corrected);
  }
  if (input.sum == nullptr) return result;
  // b += mu W^T - mu_S W'^T
  PARE_TRY(result.bias, Tensor::allocate(DType::f32, {out}));
  for (int64_t row = 0; row < out; ++row) {
    double moved = 0.0;
    for (int64_t j = 0; j < in; ++j)
      moved += double(input.weight.data<float>()[row * in + j]) * (*input.sum)[size_t(j)];
    for (int64_t j = 0; j < left; ++j)
      moved -=
          double(result.weight.data<float>()[row * left + j]) * (*input.sum)[size_t(input.kept[size_t(j)])];
    result.bias.mutable_data<float>()[row] = float(moved / double(std::max<int64_t>(1, input.tokens)));
  }
  return result;
}

}  // namespace pare
