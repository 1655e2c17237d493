// Losses of scales before rounding, as defined: what is stored (scaled weights, scales, zero points) and the
// ratio that decides a code are floats, every error and sum is double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "engine/backends/reference/statistics_class.h"
#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"

namespace pare::reference {
namespace {

struct StoredGrid {
  float scale = 1.0f, zero = 0.0f, minimum = 0.0f;
};

float stored(DType dtype, float value) {
  if (dtype == DType::f16) return f16_to_float(float_to_f16(value));
  return dtype == DType::bf16 ? bf16_to_float(float_to_bf16(value)) : value;
}

// A scale as its type holds it: between its smallest normal and its largest number, and such that no code of
// a symmetric grid stands for an infinity.
float stored_scale(const GridFormat& format, double scale) {
  constexpr float kLargestFloat = std::numeric_limits<float>::max();
  const bool is_half = format.scale_dtype == DType::f16;
  const float smallest = is_half ? 0x1p-14f : std::numeric_limits<float>::min();
  const float largest = is_half                             ? 65504.0f
                        : format.scale_dtype == DType::bf16 ? bf16_to_float(0x7f7f)
                                                            : kLargestFloat;
  if (format.is_symmetric) {
    const double slack = format.scale_dtype == DType::f32 ? 0x1p-23 : 0x1p-7;
    const int top = format.code_count / 2 - (format.is_narrow ? 1 : 0);
    scale = std::min(scale, double(kLargestFloat) / top * (1.0 - slack));
  }
  if (scale < double(smallest)) return smallest;
  if (scale > double(largest)) return largest;
  return std::min(stored(format.scale_dtype, float(scale)), largest);
}

StoredGrid grid_of(const GridFormat& format, float low, float high) {
  constexpr float kSmallest = std::numeric_limits<float>::min();
  const int top = format.code_count - 1;
  StoredGrid grid;
  if (format.has_minimum) {
    const double width = double(high) - double(low);
    if (width >= double(kSmallest)) grid.scale = stored_scale(format, width / top);
    grid.minimum = stored(format.scale_dtype, low);
    if (!std::isfinite(grid.minimum)) {
      const float largest = format.scale_dtype == DType::f16 ? 65504.0f : bf16_to_float(0x7f7f);
      grid.minimum = std::copysign(largest, low);
    }
    return grid;
  }
  low = std::min(low, 0.0f);
  high = std::max(high, 0.0f);
  const float largest = std::max(-low, high);
  if (format.is_symmetric) {
    const double steps = format.is_narrow ? double(format.code_count / 2 - 1) : double(top) / 2.0;
    if (largest >= kSmallest) grid.scale = stored_scale(format, double(largest) / steps);
    grid.zero = float(format.code_count / 2);
  } else if (largest >= kSmallest) {
    grid.scale = stored_scale(format, (double(high) - double(low)) / top);
    const double zero = std::nearbyint(-double(low) / double(grid.scale));
    grid.zero = float(std::clamp(zero, 0.0, double(top)));
  }
  return grid;
}

// What the code nearest to `value` stands for.
double restored(const GridFormat& format, const StoredGrid& grid, float value) {
  const float ratio = (value - grid.minimum) / grid.scale;
  const double bottom = format.is_symmetric && format.is_narrow ? 1.0 : 0.0;
  const double code =
      std::clamp(std::nearbyint(double(ratio)) + double(grid.zero), bottom, double(format.code_count - 1));
  return double(grid.minimum) + double(grid.scale) * (code - double(grid.zero));
}

// The grid of a group of scaled weights with its importances (empty: all 1).
StoredGrid searched_grid(const ScaleLossesArgs& a, const float* values, const std::vector<double>& importance,
                         int64_t count) {
  const auto [low, high] = std::minmax_element(values, values + count);
  StoredGrid best = grid_of(a.format, *low, *high);
  double best_error = std::numeric_limits<double>::infinity();
  for (int step = 0; step < a.search.steps; ++step) {
    const float factor = float(1.0 - double(step) / a.search.grid);
    const StoredGrid grid = grid_of(a.format, factor * *low, factor * *high);
    double error = 0.0;
    for (int64_t i = 0; i < count; ++i) {
      const double difference = restored(a.format, grid, values[i]) - double(values[i]);
      error += (importance.empty() ? 1.0 : importance[size_t(i)]) * difference * difference;
    }
    if (error < best_error) {
      best_error = error;
      best = grid;
    }
  }
  return best;
}

// e H e^T for one row of the matrix under one scale.
double row_loss(const ScaleLossesArgs& a, const float* weight, const float* scale) {
  std::vector<float> scaled(static_cast<size_t>(a.columns));
  std::vector<double> error(static_cast<size_t>(a.columns)), importance;
  for (int64_t j = 0; j < a.columns; ++j) scaled[size_t(j)] = weight[j] * scale[j];
  for (int64_t begin = 0; begin < a.columns; begin += a.width) {
    const int64_t end = std::min(a.columns, begin + a.width);
    importance.clear();
    for (int64_t j = begin; a.search.importance != nullptr && j < end; ++j)
      importance.push_back(double(a.search.importance[j]) / (double(scale[j]) * double(scale[j])));
    const StoredGrid grid = searched_grid(a, scaled.data() + begin, importance, end - begin);
    for (int64_t j = begin; j < end; ++j) {
      const double back = restored(a.format, grid, scaled[size_t(j)]) / double(scale[j]);
      error[size_t(j)] = double(weight[j]) - back;
    }
  }
  double loss = 0.0;
  for (int64_t i = 0; i < a.columns; ++i) {
    double sum = 0.0;
    for (int64_t j = 0; j < a.columns; ++j) sum += double(a.moment[i * a.columns + j]) * error[size_t(j)];
    loss += error[size_t(i)] * sum;
  }
  return loss;
}

}  // namespace

void ReferenceScaleSearch::losses(const ScaleLossesArgs& a) {
  std::vector<double> rows(static_cast<size_t>(a.rows));
  for (int64_t c = 0; c < a.candidates; ++c) {
    parallel_for(a.rows, [&](int64_t row) {
      rows[size_t(row)] = row_loss(a, a.weight + row * a.columns, a.scales + c * a.columns);
    });
    double total = 0.0;
    for (const double loss : rows) total += loss;
    a.losses[c] = total;
  }
}

}  // namespace pare::reference
