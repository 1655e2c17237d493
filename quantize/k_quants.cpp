#include "quantize/k_quants.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

using Floats = std::span<const float>;

float round_half_away(float value) {
  return std::round(value);
}

// --- one group, real scales ----------------------------------------------------------------------------

struct Fit {
  float scale = 0.0f, minimum = 0.0f;
  double error = 0.0;
};

int code_at(float value, float inverse, int low, int high) {
  return std::clamp(int(std::lrintf(std::clamp(value * inverse, -1024.0f, 1024.0f))), low, high);
}

// Best scale for |w - s q|^2, q in [-zero, zero - 1], over ranges around the one of the largest magnitude.
Fit fit_symmetric(Floats values, const float* weights, int zero) {
  float largest = 0.0f;
  for (const float value : values) {
    if (std::abs(value) > std::abs(largest)) largest = value;
  }
  if (largest == 0.0f) return {};
  Fit best;
  double best_gain = -1.0;
  for (int step = -9; step <= 9; ++step) {
    // The largest weight takes the code that reaches furthest, -zero; or nearly.
    const float inverse = -(float(zero) + 0.1f * float(step)) / largest;
    double wq = 0.0, qq = 0.0;
    for (size_t i = 0; i < values.size(); ++i) {
      const int q = code_at(values[i], inverse, -zero, zero - 1);
      wq += double(weights[i]) * double(values[i]) * q;
      qq += double(weights[i]) * q * q;
    }
    if (qq > 0.0 && wq * wq > best_gain * qq) {  // the error falls by wq^2 / qq
      best_gain = wq * wq / qq;
      best.scale = float(wq / qq);
    }
  }
  return best;
}

double error_of(Floats values, const float* weights, float scale, float minimum, int top) {
  const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
  double error = 0.0;
  for (size_t i = 0; i < values.size(); ++i) {
    const int q = code_at(values[i] - minimum, inverse, 0, top);
    const double difference = double(minimum + scale * float(q)) - double(values[i]);
    error += double(weights[i]) * difference * difference;
  }
  return error;
}

// Least squares for scale and minimum given the codes of a trial; the minimum stays at or below 0 if it must.
Fit solve(Floats values, const float* weights, float inverse, float low, int top, bool at_most_zero) {
  double sw = 0.0, sx = 0.0, sq = 0.0, sqq = 0.0, sxq = 0.0;
  for (size_t i = 0; i < values.size(); ++i) {
    const int q = code_at(values[i] - low, inverse, 0, top);
    const double w = double(weights[i]), x = double(values[i]);
    sw += w, sx += w * x, sq += w * q, sqq += w * q * q, sxq += w * x * q;
  }
  Fit fit;
  const double determinant = sw * sqq - sq * sq;
  if (determinant > 0.0) {
    fit.scale = float((sw * sxq - sx * sq) / determinant);
    fit.minimum = float((sqq * sx - sq * sxq) / determinant);
  }
  if (at_most_zero && (fit.minimum > 0.0f || determinant <= 0.0)) {
    fit.minimum = 0.0f;
    fit.scale = sqq > 0.0 ? float(sxq / sqq) : 0.0f;
  }
  return fit;
}

Fit fit_with_minimum(Floats values, const float* weights, int top, bool at_most_zero) {
  float low = *std::min_element(values.begin(), values.end());
  const float high = *std::max_element(values.begin(), values.end());
  if (at_most_zero) low = std::min(low, 0.0f);
  if (high <= low) return {0.0f, low, 0.0};
  Fit best{(high - low) / float(top), low, 0.0};
  best.error = error_of(values, weights, best.scale, best.minimum, top);
  for (int step = -5; step <= 14; ++step) {
    const float inverse = (float(top) + 0.1f * float(step)) / (high - low);
    Fit fit = solve(values, weights, inverse, low, top, at_most_zero);
    for (int round = 0; round < 2 && fit.scale > 0.0f; ++round) {
      fit.error = error_of(values, weights, fit.scale, fit.minimum, top);
      if (fit.error >= best.error) break;
      best = fit;
      fit = solve(values, weights, 1.0f / fit.scale, fit.minimum, top, at_most_zero);
    }
  }
  return best;
}

// --- codes from stored scales ---------------------------------------------------------------------------

// Codes of a group on the grid that its stored scale and minimum give, and what they cost.
double encode_group(const BlockScheme& scheme, Floats values, const float* weights, GroupValues grid,
                    uint8_t* codes) {
  const int zero = scheme.code_of_zero(), top = scheme.highest_code();
  const float inverse = grid.scale != 0.0f ? 1.0f / grid.scale : 0.0f;
  double error = 0.0;
  for (size_t i = 0; i < values.size(); ++i) {
    const int q = code_at(values[i] - grid.minimum, inverse, -zero, top - zero);
    if (codes != nullptr) codes[i] = uint8_t(q + zero);
    const double difference = double(grid.minimum + grid.scale * float(q)) - double(values[i]);
    error += double(weights[i]) * difference * difference;
  }
  return error;
}

struct Half {
  uint16_t bits = 0;
  float value = 0.0f;
  bool ok = true;
};
Half half(float value) {
  const uint16_t bits = float_to_f16(value);
  const float stored = f16_to_float(bits);
  return {bits, stored, std::isfinite(stored)};
}

// --- one level -------------------------------------------------------------------------------------------

// The scale from the range and codes from it before it is rounded: what the format's own tools do, bit for
// bit.
BlockFault plain_rounding(const BlockScheme& scheme, Floats values, BlockCodes& out) {
  const int zero = scheme.code_of_zero(), top = scheme.highest_code();
  float d = 0.0f, minimum = 0.0f;
  if (scheme.has_minimum) {
    minimum = *std::min_element(values.begin(), values.end());
    d = (*std::max_element(values.begin(), values.end()) - minimum) / float(top);
  } else {
    float largest = 0.0f;
    for (const float value : values) {
      if (std::abs(value) > std::abs(largest)) largest = value;
    }
    d = scheme.bits == 8 ? std::abs(largest) / 127.0f : largest / -float(zero);
  }
  const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
  for (size_t i = 0; i < values.size(); ++i) {
    float code = 0.0f;
    if (scheme.has_minimum) {
      code = std::trunc((values[i] - minimum) * inverse + 0.5f);
    } else if (scheme.bits == 8) {
      code = round_half_away(values[i] * inverse) + float(zero);
    } else {
      code = std::trunc(values[i] * inverse + (float(zero) + 0.5f));
    }
    out.codes[i] = uint8_t(std::clamp(code, 0.0f, float(top)));
  }
  const Half stored_d = half(d), stored_minimum = half(minimum);
  out.d = stored_d.bits;
  out.dmin = scheme.has_minimum ? stored_minimum.bits : uint16_t{0};
  return stored_d.ok && stored_minimum.ok ? BlockFault::none : BlockFault::too_large;
}

BlockFault one_level(const BlockScheme& scheme, Floats values, const float* weights,
                     const BlockSearch& options, BlockCodes& out) {
  const BlockFault fault = plain_rounding(scheme, values, out);
  if (fault != BlockFault::none || scheme.bits == 8 || !options.search) return fault;
  BlockCodes best = out;
  double best_error = 0.0;
  std::array<float, BlockCodes::kMaxBlock> decoded;
  decode_block(scheme, out, decoded.data());
  for (size_t i = 0; i < values.size(); ++i) {
    const double difference = double(decoded[i]) - double(values[i]);
    best_error += double(weights[i]) * difference * difference;
  }
  const auto attempt = [&](float scale, float minimum) {
    const Half d = half(scale), m = half(minimum);
    if (!d.ok || !m.ok) return;
    BlockCodes trial;
    trial.d = d.bits;
    trial.dmin = scheme.has_minimum ? m.bits : uint16_t{0};
    const double error = encode_group(scheme, values, weights, {d.value, m.value}, trial.codes.data());
    if (error < best_error) best_error = error, best = trial;
  };
  const auto as_stored = group_values(scheme, out, 0);
  attempt(as_stored.scale, as_stored.minimum);
  if (scheme.has_minimum) {
    const Fit fit = fit_with_minimum(values, weights, scheme.highest_code(), false);
    attempt(fit.scale, fit.minimum);
  } else {
    const Fit fit = fit_symmetric(values, weights, scheme.code_of_zero());
    attempt(fit.scale, 0.0f);
    attempt(-fit.scale, 0.0f);
  }
  out = best;
  return BlockFault::none;
}

// --- two levels ------------------------------------------------------------------------------------------

// Stored scale and minimum of a group near what its fit asked for: the pair with the smallest error.
struct Stored {
  int scale = 0, minimum = 0;
  double error = 0.0;
};

Stored best_stored(const BlockScheme& scheme, Floats values, const float* weights, float d, float dmin,
                   const Fit& fit) {
  const int low = scheme.signed_scales ? -(1 << (scheme.scale_bits - 1)) : 0;
  const int high = low + (1 << scheme.scale_bits) - 1;
  const auto nearest = [&](float real, float unit) {
    return unit != 0.0f ? std::clamp(int(std::lrintf(std::clamp(real / unit, -1024.0f, 1024.0f))), low, high)
                        : 0;
  };
  const int scale = nearest(fit.scale, d), minimum = scheme.has_minimum ? nearest(-fit.minimum, dmin) : 0;
  Stored best{scale, minimum, -1.0};
  const int around = scheme.has_minimum ? 1 : 0;
  for (int s = std::max(low, scale - 1); s <= std::min(high, scale + 1); ++s) {
    for (int m = std::max(0, minimum - around); m <= std::min(high, minimum + around); ++m) {
      const GroupValues grid{d * float(s), scheme.has_minimum ? -(dmin * float(m)) : 0.0f};
      const double error = encode_group(scheme, values, weights, grid, nullptr);
      if (best.error < 0.0 || error < best.error) best = {s, m, error};
    }
  }
  return best;
}

BlockFault two_levels(const BlockScheme& scheme, Floats values, const float* weights, BlockCodes& out) {
  const auto groups = size_t(scheme.groups()), width = size_t(scheme.group);
  std::array<Fit, BlockCodes::kMaxGroups> fits{};
  float largest = 0.0f, deepest = 0.0f;
  for (size_t g = 0; g < groups; ++g) {
    const Floats group = values.subspan(g * width, width);
    fits[g] = scheme.has_minimum ? fit_with_minimum(group, weights + g * width, scheme.highest_code(), true)
                                 : fit_symmetric(group, weights + g * width, scheme.code_of_zero());
    if (std::abs(fits[g].scale) > std::abs(largest)) largest = fits[g].scale;
    deepest = std::max(deepest, -fits[g].minimum);
  }
  const int top = scheme.signed_scales ? 1 << (scheme.scale_bits - 1) : (1 << scheme.scale_bits) - 1;
  const Half dmin = half(deepest / float((1 << scheme.scale_bits) - 1));
  if (!dmin.ok) return BlockFault::too_large;
  double best_error = -1.0;
  // A slightly larger unit sometimes meets more of the scales.
  for (int step = 0; step <= 3; ++step) {
    const float reach = float(top) - float(step) * (scheme.scale_bits > 4 ? 1.0f : 0.25f);
    // Signed scales: the one of largest magnitude becomes the furthest negative code.
    const Half d = half(largest / (scheme.signed_scales ? -reach : reach));
    if (!d.ok) return BlockFault::too_large;
    BlockCodes trial;
    trial.d = d.bits;
    trial.dmin = scheme.has_minimum ? dmin.bits : uint16_t{0};
    double error = 0.0;
    for (size_t g = 0; g < groups; ++g) {
      const Stored stored = best_stored(scheme, values.subspan(g * width, width), weights + g * width,
                                        d.value, dmin.value, fits[g]);
      trial.scales[g] = int16_t(stored.scale);
      trial.minimums[g] = uint8_t(stored.minimum);
      error += stored.error;
    }
    if (best_error < 0.0 || error < best_error) best_error = error, out = trial;
  }
  for (size_t g = 0; g < groups; ++g) {
    encode_group(scheme, values.subspan(g * width, width), weights + g * width,
                 group_values(scheme, out, int(g)), out.codes.data() + g * width);
  }
  return BlockFault::none;
}

}  // namespace

void block_error_weights(const BlockScheme& scheme, Floats values, Floats importance, float row_mean_square,
                         float* weights) {
  double mean = 0.0;
  for (const float value : values) mean += double(value) * double(value);
  mean /= double(values.size());
  if (importance.empty()) {
    // Large weights count a little more: errors there move outputs most.
    const float root = float(std::sqrt(mean));
    for (size_t i = 0; i < values.size(); ++i) weights[i] = root + std::abs(values[i]);
    if (mean == 0.0) std::fill_n(weights, values.size(), 1.0f);
    return;
  }
  const double variance = !scheme.has_two_levels() ? double(row_mean_square)
                          : scheme.bits == 2       ? 0.75 * mean
                                                   : 2.0 * mean;
  for (size_t i = 0; i < values.size(); ++i)
    weights[i] = float(double(importance[i]) * std::sqrt(variance + double(values[i]) * double(values[i])));
}

BlockFault quantize_block(const BlockScheme& scheme, Floats values, Floats importance, float row_mean_square,
                          const BlockSearch& options, BlockCodes& out) {
  std::array<float, BlockCodes::kMaxBlock> weights;
  block_error_weights(scheme, values, importance, row_mean_square, weights.data());
  out = {};
  return scheme.has_two_levels() ? two_levels(scheme, values, weights.data(), out)
                                 : one_level(scheme, values, weights.data(), options, out);
}

}  // namespace pare
