#include "quantize/codebook.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/tensor_scan.h"
#include "quantize/matrix_codes.h"
#include "quantize/row_quantizer.h"

namespace pare {
namespace {

constexpr double kReach = 1.0078125;  // |value| <= 1 + the rounding of a bf16 scale

// What is not empty of a histogram, in rising order.
struct Points {
  std::vector<double> mean, weight;
};

Points points_of(const ValueHistogram& histogram) {
  Points points;
  for (int bin = 0; bin < ValueHistogram::kBins; ++bin) {
    if (histogram.weight(bin) <= 0.0) continue;
    points.mean.push_back(histogram.mean(bin));
    points.weight.push_back(histogram.weight(bin));
  }
  return points;
}

// ends[k]: the first point that is not nearest to one of the codes 0 to k.
std::vector<size_t> assign(const Points& points, const std::vector<float>& codebook) {
  std::vector<size_t> ends(codebook.size(), points.mean.size());
  size_t point = 0;
  for (size_t k = 0; k + 1 < codebook.size(); ++k) {
    const double middle = double((codebook[k] + codebook[k + 1]) * 0.5f);
    while (point < points.mean.size() && points.mean[point] <= middle) ++point;
    ends[k] = point;
  }
  return ends;
}

std::vector<float> quantiles(const Points& points, int count) {
  double total = 0.0;
  for (const double weight : points.weight) total += weight;
  std::vector<float> values;
  size_t point = 0;
  double below = 0.0;
  for (int k = 0; k < count; ++k) {
    const double target = total * (k + 0.5) / count;
    while (point + 1 < points.weight.size() && below + points.weight[point] < target)
      below += points.weight[point++];
    values.push_back(float(points.mean[point]));
  }
  return values;
}

// The `wanted` points that are worst off with `codebook`, worst first; ends: assign()'s for it.
std::vector<float> worst_points(const Points& points, const std::vector<size_t>& ends,
                                const std::vector<float>& codebook, size_t wanted) {
  struct PointError {
    double error;
    size_t point;
  };
  std::vector<PointError> errors;
  size_t k = 0;
  for (size_t i = 0; i < points.mean.size(); ++i) {
    while (ends[k] <= i) ++k;
    const double difference = points.mean[i] - double(codebook[k]);
    errors.push_back({points.weight[i] * difference * difference, i});
  }
  wanted = std::min(wanted, errors.size());
  std::partial_sort(errors.begin(), errors.begin() + std::ptrdiff_t(wanted), errors.end(),
                    [](const PointError& a, const PointError& b) {
                      return a.error != b.error ? a.error > b.error : a.point < b.point;
                    });
  std::vector<float> values;
  for (size_t i = 0; i < wanted && errors[i].error > 0.0; ++i)
    values.push_back(float(points.mean[errors[i].point]));
  return values;
}

// Moves each code that no point takes to a point with a large error.
void fill_empty(const Points& points, const std::vector<size_t>& ends, std::vector<float>& codebook) {
  std::vector<size_t> empty;
  for (size_t k = 0; k < codebook.size(); ++k)
    if (ends[k] == (k == 0 ? 0 : ends[k - 1])) empty.push_back(k);
  if (empty.empty()) return;
  const std::vector<float> values = worst_points(points, ends, codebook, empty.size());
  for (size_t i = 0; i < values.size(); ++i) codebook[empty[i]] = values[i];
}

// Quantiles; those that fall together make room for the points that are worst off without them.
std::vector<float> first_codes(const Points& points, int count) {
  std::vector<float> codebook = quantiles(points, count);
  codebook.erase(std::unique(codebook.begin(), codebook.end()), codebook.end());
  const size_t missing = size_t(count) - codebook.size();
  if (missing == 0) return codebook;
  const std::vector<float> worst = worst_points(points, assign(points, codebook), codebook, missing);
  codebook.insert(codebook.end(), worst.begin(), worst.end());
  codebook.resize(size_t(count), codebook.back());
  std::sort(codebook.begin(), codebook.end());
  return codebook;
}

void put_zero(std::vector<float>& codebook) {
  *std::min_element(codebook.begin(), codebook.end(),
                    [](float a, float b) { return std::abs(a) < std::abs(b); }) = 0.0f;
}

std::vector<float> iterate(const Points& points, std::vector<float> codebook, const KMeansOptions& options) {
  std::vector<size_t> last;
  for (int round = 0; round < options.rounds; ++round) {
    if (options.exact_zero) put_zero(codebook);
    std::sort(codebook.begin(), codebook.end());
    const std::vector<size_t> ends = assign(points, codebook);
    if (ends == last) break;
    last = ends;
    for (size_t k = 0, begin = 0; k < codebook.size(); begin = ends[k++]) {
      double weight = 0.0, product = 0.0;
      for (size_t i = begin; i < ends[k]; ++i) {
        weight += points.weight[i];
        product += points.weight[i] * points.mean[i];
      }
      if (weight > 0.0) codebook[k] = float(product / weight);
    }
    fill_empty(points, ends, codebook);
  }
  if (options.exact_zero) put_zero(codebook);
  std::sort(codebook.begin(), codebook.end());
  return codebook;
}

// What the walk over the matrix before k-means finds.
struct Survey {
  ValueHistogram histogram;
  int64_t zeros = 0;
  bool has_zero_group = false;
};

class Surveyor {
 public:
  Surveyor(const Tensor& weight, const QuantScheme& scheme, std::span<const float> importance,
           const std::optional<FittedGrid>& tensor_grid)
      : weight_(weight), scheme_(scheme), importance_(importance), tensor_grid_(tensor_grid) {}

  Survey run(int64_t begin, int64_t end) const {
    const int64_t in = weight_.size(1), width = scheme_.group_width(in);
    Survey survey;
    std::vector<float> row(static_cast<size_t>(in));
    for (int64_t r = begin; r < end; ++r) {
      load_row(weight_, r, row.data());
      for (int64_t first = 0; first < in; first += width)
        add_group(std::span(row.data() + first, size_t(std::min(width, in - first))), first, survey);
    }
    return survey;
  }

 private:
  void add_group(std::span<const float> group, int64_t first, Survey& survey) const {
    const float scale = (tensor_grid_ ? *tensor_grid_ : fit_min_max(scheme_, group)).grid.scale;
    const double square = double(scale) * double(scale);
    bool all_zero = true;
    for (size_t i = 0; i < group.size(); ++i) {
      survey.zeros += group[i] == 0.0f;
      all_zero = all_zero && std::abs(group[i]) < std::numeric_limits<float>::min();
      const double importance = importance_.empty() ? 1.0 : double(importance_[size_t(first) + i]);
      survey.histogram.add(group[i] / scale, importance * square);
    }
    survey.has_zero_group = survey.has_zero_group || all_zero;
  }

  const Tensor& weight_;
  const QuantScheme& scheme_;
  std::span<const float> importance_;
  const std::optional<FittedGrid>& tensor_grid_;
};

// At most 16 parts, cut by shape alone and added in their order.
Survey survey_matrix(const Tensor& weight, const Surveyor& surveyor) {
  const int64_t out = weight.size(0), rows = std::max<int64_t>(16, (out + 15) / 16);
  std::vector<Survey> parts(size_t((out + rows - 1) / rows));
  parallel_for(int64_t(parts.size()), [&](int64_t part) {
    parts[size_t(part)] = surveyor.run(part * rows, std::min(out, (part + 1) * rows));
  });
  Survey total = std::move(parts[0]);
  for (size_t i = 1; i < parts.size(); ++i) {
    total.histogram.merge(parts[i].histogram);
    total.zeros += parts[i].zeros;
    total.has_zero_group = total.has_zero_group || parts[i].has_zero_group;
  }
  return total;
}

}  // namespace

ValueHistogram::ValueHistogram() : sums_(size_t{kBins}) {}

void ValueHistogram::add(float value, double weight) {
  const double position = (double(value) + kReach) * (kBins / (2.0 * kReach));
  Sum& sum = sums_[size_t(std::clamp(position, 0.0, double(kBins - 1)))];
  sum.weight += weight;
  sum.product += weight * double(value);
}

void ValueHistogram::merge(const ValueHistogram& other) {
  for (size_t bin = 0; bin < sums_.size(); ++bin) {
    sums_[bin].weight += other.sums_[bin].weight;
    sums_[bin].product += other.sums_[bin].product;
  }
}

std::vector<float> fit_codebook(const ValueHistogram& histogram, int count, const KMeansOptions& options) {
  const Points points = points_of(histogram);
  if (points.mean.empty()) return std::vector<float>(size_t(count), 0.0f);
  if (points.mean.size() + (options.exact_zero ? 1 : 0) <= size_t(count)) {
    std::vector<float> codebook;
    for (const double mean : points.mean) codebook.push_back(float(mean));
    const bool has_zero = std::find(codebook.begin(), codebook.end(), 0.0f) != codebook.end();
    if (options.exact_zero && !has_zero) codebook.push_back(0.0f);
    std::sort(codebook.begin(), codebook.end());
    codebook.resize(size_t(count), codebook.back());
    return codebook;
  }
  KMeansOptions free = options;
  free.exact_zero = false;
  std::vector<float> codebook = iterate(points, first_codes(points, count), free);
  if (options.exact_zero) codebook = iterate(points, std::move(codebook), options);
  return codebook;
}

double codebook_error(const ValueHistogram& histogram, std::span<const float> codebook) {
  const Points points = points_of(histogram);
  double total = 0.0;
  for (size_t i = 0; i < points.mean.size(); ++i) {
    const double difference = points.mean[i] - double(codebook[nearest_in(codebook, float(points.mean[i]))]);
    total += points.weight[i] * difference * difference;
  }
  return total;
}

Result<QuantizeOutput> k_means(const Tensor& weight, const QuantScheme& scheme,
                               const QuantizeOptions& options, std::string_view name) {
  PARE_ASSERT(weight.shape().rank() == 2, "[kmeans] {} has shape {}", name, weight.shape().text());
  if (scheme.kind != QuantScheme::Kind::codebook || scheme.codebook != "custom")
    return scheme_refused(scheme, name, "kmeans fits a codebook; use a scheme like kmeans4-g64");
  if (options.clip_search)
    return scheme_refused(scheme, name, "kmeans places its values itself; leave out the range search");
  PARE_CHECK(require_finite(weight, std::string(name), {}));
  RowMethod method;
  std::vector<float> codebook(size_t(scheme.code_count()), 0.0f);
  std::span<const float> importance = options.importance;
  if (std::none_of(importance.begin(), importance.end(), [](float u) { return u > 0.0f; })) importance = {};
  if (weight.numel() > 0) {
    if (scheme.granularity == QuantScheme::Granularity::tensor)
      method.tensor_grid = fit_tensor(weight, scheme);
    const Survey survey = survey_matrix(weight, Surveyor(weight, scheme, importance, method.tensor_grid));
    codebook = fit_codebook(survey.histogram, scheme.code_count(),
                            {.exact_zero = survey.has_zero_group || survey.zeros * 1000 >= weight.numel()});
  }
  method.fit = [&](std::span<const float> group, std::span<const float>) {
    return fit_min_max(scheme, group);
  };
  method.codebook = codebook;
  return quantize_rows(weight, scheme, options, name, method);
}

}  // namespace pare
