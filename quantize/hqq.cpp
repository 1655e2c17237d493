#include "quantize/hqq.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "engine/core/assert.h"
#include "engine/tensor/tensor_scan.h"
#include "quantize/fast_power.h"
#include "quantize/row_quantizer.h"

namespace pare {
namespace {

// The proximal step of |x|^power / beta, x in steps.
float shrunk(float x, float power, float beta) {
  const float magnitude = std::abs(x);
  if (magnitude < 1e-6f) return 0.0f;
  const float kept = magnitude - fast_exp2((power - 1.0f) * fast_log2(magnitude)) / beta;
  return kept > 0.0f ? std::copysign(kept, x) : 0.0f;
}

// A group, its importances, and what a grid makes of it.
class Rounds {
 public:
  Rounds(const QuantScheme& scheme, std::span<const float> group, std::span<const float> importance)
      : scheme_(scheme),
        group_(group),
        importance_(importance),
        codes_(group.size()),
        restored_(group.size()) {
    for (size_t i = 0; i < group.size(); ++i) total_ += weight(i);
  }

  bool has_weight() const { return total_ > 0.0; }

  // Rounds with `grid`; returns the weighted mean of |w - what|.
  double round(const Grid& grid) {
    encode(scheme_, grid, group_, codes_.data());
    decode(scheme_, grid, codes_, restored_.data());
    double sum = 0.0;
    for (size_t i = 0; i < group_.size(); ++i)
      sum += weight(i) * std::abs(double(group_[i]) - double(restored_[i]));
    return sum / total_;
  }

  // The grid that `grid` becomes: its offset moved by the mean of what the shrunk errors leave.
  Grid moved(const Grid& grid, float power, float beta) const {
    double sum = 0.0;
    for (size_t i = 0; i < group_.size(); ++i) {
      const float error = (group_[i] - restored_[i]) / grid.scale;
      sum += weight(i) * double(error - shrunk(error, power, beta));
    }
    const double steps = sum / total_;
    Grid result = grid;
    if (scheme_.offset == QuantScheme::Offset::minimum) {
      const float minimum =
          round_to(scheme_.scale_dtype, float(double(grid.minimum) + steps * double(grid.scale)));
      if (std::isfinite(minimum)) result.minimum = minimum;
    } else {
      const double zero = std::nearbyint(double(grid.zero_point) - steps);
      result.zero_point = int(std::clamp(zero, 0.0, double(scheme_.code_count() - 1)));
    }
    return result;
  }

 private:
  double weight(size_t i) const { return importance_.empty() ? 1.0 : double(importance_[i]); }

  const QuantScheme& scheme_;
  std::span<const float> group_, importance_;
  std::vector<uint8_t> codes_;
  std::vector<float> restored_;
  double total_ = 0.0;
};

}  // namespace

FittedGrid fit_half_quadratic(const QuantScheme& scheme, const FittedGrid& start,
                              std::span<const float> group, std::span<const float> importance,
                              const HqqOptions& hqq) {
  PARE_ASSERT(scheme.kind == QuantScheme::Kind::integer && !scheme.is_symmetric(), "[hqq] {}", scheme.text());
  Rounds rounds(scheme, group, importance);
  FittedGrid best = start;
  if (!rounds.has_weight()) return best;
  Grid grid = start.grid;
  double best_error = rounds.round(grid);
  float beta = float(hqq.beta);
  for (int round = 0; round < hqq.rounds && best_error > 0.0; ++round) {
    grid = rounds.moved(grid, float(hqq.power), beta);
    const double error = rounds.round(grid);
    if (!(error < best_error)) break;
    best_error = error;
    best.grid = grid;
    beta *= float(hqq.growth);
  }
  return best;
}

Result<QuantizeOutput> half_quadratic(const Tensor& weight, const QuantScheme& scheme,
                                      const QuantizeOptions& options, std::string_view name) {
  PARE_ASSERT(weight.shape().rank() == 2, "[hqq] {} has shape {}", name, weight.shape().text());
  if (scheme.kind != QuantScheme::Kind::integer || scheme.is_symmetric())
    return scheme_refused(scheme, name, "hqq moves the offset of a grid; use a scheme with -asymf or -asym");
  if (scheme.granularity == QuantScheme::Granularity::tensor)
    return scheme_refused(scheme, name, "hqq needs a scale per channel or group");
  PARE_CHECK(require_finite(weight, std::string(name), {}));
  RowMethod method;
  method.fit = [&](std::span<const float> group, std::span<const float> importance) {
    const FittedGrid start = options.clip_search ? fit_clipped(scheme, group, options.clip, importance)
                                                 : fit_min_max(scheme, group);
    return fit_half_quadratic(scheme, start, group, importance);
  };
  return quantize_rows(weight, scheme, options, name, method);
}

}  // namespace pare
