#include "distill/step_init.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <span>
#include <string>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/tensor_scan.h"

namespace pare {
namespace {

using Granularity = QuantScheme::Granularity;

Error scheme_refused(const QuantScheme& scheme, std::string_view name, std::string what) {
  return Error{.exit = Exit::unsupported,
               .rule = "RC14",
               .where = quote(name),
               .what = std::move(what),
               .got = scheme.text(),
               .limit = "int2 to int8, symmetric or with zero points",
               .limit_label = "expected"};
}

struct GroupStep {
  float scale = 1.0f, zero = 0.0f;
};

// What rounding a group to a grid does, with q = code - zero.
struct Fit {
  double error = 0.0;   // sum (scale q - w)^2
  double cross = 0.0;   // sum w q
  double square = 0.0;  // sum q^2
};

// Multiplies by the reciprocal and adds lane by lane, for the compiler's vectors: good for ranking grids, not
// for codes.
Fit fit(std::span<const float> weights, const GroupStep& step, ops::CodeRange range) {
  constexpr size_t kLanes = 16, kChunk = 4096;  // float sums of at most 256 terms
  constexpr float kMagic = 12582912.0f;         // 1.5 * 2^23: rounds what is added to it to a whole number
  const float inverse = 1.0f / step.scale, low = range.low - step.zero, high = range.high - step.zero;
  Fit total;
  for (size_t begin = 0; begin < weights.size(); begin += kChunk) {
    const size_t end = std::min(weights.size(), begin + kChunk);
    std::array<float, kLanes> error{}, cross{}, square{};
    const auto add = [&](size_t lane, float w) {
      const float q = (std::clamp(w * inverse, low, high) + kMagic) - kMagic;
      const float difference = step.scale * q - w;
      error[lane] += difference * difference;
      cross[lane] += w * q;
      square[lane] += q * q;
    };
    size_t i = begin;
    for (; i + kLanes <= end; i += kLanes)
      for (size_t lane = 0; lane < kLanes; ++lane) add(lane, weights[i + lane]);
    for (; i < end; ++i) add(i % kLanes, weights[i]);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      total.error += double(error[lane]);
      total.cross += double(cross[lane]);
      total.square += double(square[lane]);
    }
  }
  return total;
}

// The grid that covers `share` of the range [low, high], low <= 0 <= high.
GroupStep covering(const QuantScheme& scheme, ops::CodeRange range, double low, double high, double share) {
  GroupStep step;
  if (scheme.is_symmetric()) {
    step.scale = stored_step(scheme.scale_dtype, float(share * std::max(-low, high) / double(range.high)));
    return step;
  }
  step.scale = stored_step(scheme.scale_dtype, float(share * (high - low) / double(range.high)));
  const double zero = std::nearbyint(-share * low / double(step.scale));
  step.zero = float(std::clamp(zero, 0.0, double(range.high)));
  return step;
}

// Ranges from the whole one down to a twelfth; then the best one's step and codes in turn, each the best for
// the other.
GroupStep search(const QuantScheme& scheme, ops::CodeRange range, std::span<const float> weights) {
  constexpr int kRanges = 25, kTurns = 6;
  constexpr double kShrink = 0.9;
  const auto [least, largest] = std::minmax_element(weights.begin(), weights.end());
  const double low = std::min(0.0, double(*least)), high = std::max(0.0, double(*largest));
  GroupStep best;
  if (std::max(-low, high) < double(FLT_MIN)) return best;  // zeros or subnormals only
  Fit best_fit{.error = INFINITY};
  const auto consider = [&](const GroupStep& step) {
    const Fit candidate = fit(weights, step, range);
    if (!(candidate.error < best_fit.error)) return false;
    best = step;
    best_fit = candidate;
    return true;
  };
  double share = 1.0;
  for (int i = 0; i < kRanges; ++i, share *= kShrink) consider(covering(scheme, range, low, high, share));
  for (int turn = 0; turn < kTurns && best_fit.square > 0.0 && best_fit.cross > 0.0; ++turn) {
    const float scale = stored_step(scheme.scale_dtype, float(best_fit.cross / best_fit.square));
    if (!consider({.scale = scale, .zero = best.zero})) break;
  }
  return best;
}

GroupStep from_mean(const QuantScheme& scheme, ops::CodeRange range, std::span<const float> weights) {
  double sum = 0.0;
  for (const float w : weights) sum += std::abs(double(w));
  GroupStep step;
  const double scale = 2.0 * sum / double(weights.size()) / std::sqrt(double(range.high));
  if (scale >= double(FLT_MIN)) step.scale = stored_step(scheme.scale_dtype, float(scale));
  return step;
}

}  // namespace

Status check_learnable(const QuantScheme& scheme, std::string_view name) {
  if (scheme.kind != QuantScheme::Kind::integer)
    return scheme_refused(scheme, name, "training learns the steps of integer codes only");
  if (scheme.offset == QuantScheme::Offset::minimum)
    return scheme_refused(scheme, name, "training does not learn float offsets; use zero points (asym)");
  return {};
}

ops::CodeRange code_range(const QuantScheme& scheme) {
  if (!scheme.is_symmetric()) return {0.0f, float(scheme.code_count() - 1)};
  const int half = scheme.symmetric_zero_point();
  const bool is_narrow = scheme.range == QuantScheme::Range::narrow;
  return {float(is_narrow ? 1 - half : -half), float(half - 1)};
}

float bounded_step(DType scale_dtype, float step) {
  constexpr float kSmallest = 1e-8f;
  switch (scale_dtype) {
    case DType::f16:
      return std::clamp(step, 6.103515625e-05f, 65504.0f);
    case DType::bf16:
      return std::clamp(step, kSmallest, bf16_to_float(0x7f7f));
    default:
      return std::clamp(step, kSmallest, FLT_MAX);
  }
}

float stored_step(DType scale_dtype, float step) {
  const float bounded = bounded_step(scale_dtype, step);
  switch (scale_dtype) {
    case DType::f16:
      return f16_to_float(float_to_f16(bounded));
    case DType::bf16:
      return bf16_to_float(float_to_bf16(bounded));
    default:
      return bounded;
  }
}

Result<StepGrid> initial_steps(const Tensor& weight, const QuantScheme& scheme, StepInit init,
                               std::string_view name) {
  PARE_ASSERT(weight.shape().rank() == 2 && weight.is_contiguous() && weight.dtype() == DType::f32,
              "[initial_steps] {} has shape {}", name, weight.shape().text());
  PARE_CHECK(check_learnable(scheme, name));
  if (init == StepInit::mean_magnitude && !scheme.is_symmetric())
    return scheme_refused(scheme, name,
                          "steps from mean magnitudes are for symmetric codes; search for them instead");
  PARE_CHECK(require_finite(weight, std::string(name), {}));
  const int64_t out = weight.size(0), in = weight.size(1);
  const bool is_one = scheme.granularity == Granularity::tensor;
  const int64_t rows = is_one ? 1 : out, row_size = is_one ? weight.numel() : in;
  const int64_t groups = is_one ? 1 : scheme.groups(in), width = is_one ? row_size : scheme.group_width(in);
  StepGrid grid;
  PARE_TRY(grid.scales, Tensor::allocate(DType::f32, {rows, groups}, weight.device()));
  if (!scheme.is_symmetric()) {
    PARE_TRY(grid.zeros, Tensor::allocate(DType::f32, {rows, groups}, weight.device()));
  }
  const ops::CodeRange range = code_range(scheme);
  parallel_for(rows * groups, [&](int64_t group) {
    const int64_t begin = group % groups * width, count = std::min(width, row_size - begin);
    GroupStep step;
    if (count > 0) {
      const std::span<const float> weights(weight.data<float>() + group / groups * row_size + begin,
                                           size_t(count));
      step = init == StepInit::mean_magnitude ? from_mean(scheme, range, weights)
                                              : search(scheme, range, weights);
    }
    grid.scales.mutable_data<float>()[group] = step.scale;
    if (grid.zeros.defined()) grid.zeros.mutable_data<float>()[group] = step.zero;
  });
  return grid;
}

}  // namespace pare
