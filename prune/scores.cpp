#include "prune/scores.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/core/parallel.h"

namespace pare {
namespace {

constexpr int64_t kRowsPerItem = 16;

template <class Function>
Result<Tensor> scored(const Tensor& weight, Function function) {
  PARE_ASSERT(weight.dtype() == DType::f32 && weight.is_contiguous(), "[scores] {}", weight.shape().text());
  const int64_t out = weight.size(0), in = weight.size(1);
  PARE_TRY(Tensor scores, Tensor::allocate(DType::f32, {out, in}));
  const float* from = weight.data<float>();
  float* to = scores.mutable_data<float>();
  parallel_ranges(out, kRowsPerItem, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < in; ++c) to[r * in + c] = function(from[r * in + c], c);
  });
  return scores;
}

void normalise_rms(Tensor& scores) {
  double sum = 0.0;
  const float* data = scores.data<float>();
  for (int64_t i = 0; i < scores.numel(); ++i) sum += double(data[i]) * double(data[i]);
  if (sum == 0.0) return;
  const auto scale = float(std::sqrt(double(scores.numel()) / sum));
  float* target = scores.mutable_data<float>();
  for (int64_t i = 0; i < scores.numel(); ++i) target[i] *= scale;
}

void normalise_lamp(Tensor& scores) {
  float* data = scores.mutable_data<float>();
  std::vector<int32_t> order(size_t(scores.numel()));
  for (size_t i = 0; i < order.size(); ++i) order[i] = int32_t(i);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return data[a] < data[b]; });
  double sum = 0.0;  // of the squares from the largest down
  for (size_t end = order.size(); end > 0;) {
    const float score = data[order[end - 1]];
    size_t begin = end;
    while (begin > 0 && data[order[begin - 1]] == score) --begin;
    const double square = double(score) * double(score);
    sum += square * double(end - begin);
    const float value = sum > 0.0 ? float(square / sum) : 0.0f;
    for (size_t i = begin; i < end; ++i) data[order[i]] = value;
    end = begin;
  }
}

}  // namespace

Result<Tensor> magnitude_scores(const Tensor& weight) {
  return scored(weight, [](float value, int64_t) { return std::abs(value); });
}

Result<Tensor> wanda_scores(const Tensor& weight, std::span<const float> norms) {
  PARE_ASSERT(int64_t(norms.size()) == weight.size(1), "[scores] {} norms", norms.size());
  return scored(weight, [norms](float value, int64_t c) { return std::abs(value) * norms[size_t(c)]; });
}

void normalise_scores(Tensor& scores, Normalisation normalisation) {
  if (normalisation == Normalisation::rms) normalise_rms(scores);
  if (normalisation == Normalisation::lamp) normalise_lamp(scores);
}

OutlierCount count_outliers(const Tensor& scores, double factor, double mean) {
  OutlierCount count{.outliers = 0, .weights = scores.numel()};
  const float* data = scores.data<float>();
  for (int64_t i = 0; i < scores.numel(); ++i) count.outliers += double(data[i]) > factor * mean;
  return count;
}

double score_sum(const Tensor& scores) {
  double sum = 0.0;
  const float* data = scores.data<float>();
  for (int64_t i = 0; i < scores.numel(); ++i) sum += double(data[i]);
  return sum;
}

}  // namespace pare
