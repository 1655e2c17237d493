// Rounded inputs and their gradient: what hosts do, and what other backends give too.
#include <algorithm>
#include <array>
#include <bit>
#include <limits>

#include "engine/core/parallel.h"
#include "engine/tensor/integer_product.h"
#include "engine/tensor/training_backend.h"

namespace pare {
namespace {

constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: rounds what is added to it to a whole number
constexpr int64_t kRowsPerItem = 8;

// The ends of a row's range with 0 in it, by comparing bits: a loop that compilers turn into vectors.
struct Ends {
  float low = 0.0f, high = 0.0f;
  bool is_finite = true;
};

Ends ends_of(const float* x, int64_t count) {
  int32_t least = 0, largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t bits = std::bit_cast<int32_t>(x[i]);
    const int32_t key = bits ^ ((bits >> 31) & 0x7fffffff);  // in the order of the numbers
    least = key < least ? key : least;
    largest = key > largest ? key : largest;
  }
  constexpr int32_t kInfinity = 0x7f800000;
  if (largest >= kInfinity || ~least >= kInfinity) return {.is_finite = false};
  return {.low = std::bit_cast<float>(least < 0 ? least ^ 0x7fffffff : 0),
          .high = std::bit_cast<float>(largest)};
}

// Codes less the zero point, and what they stand for.
struct RowGrid {
  float scale, low, high;

  float nearest(float quotient) const { return (std::clamp(quotient, low, high) + kMagic) - kMagic; }
};

RowGrid row_grid(const ActivationQuant& activation, const RoundedRow& row) {
  return {row.scale, float(activation.lowest_code() - row.zero_point),
          float(activation.highest_code() - row.zero_point)};
}

ActivationQuant with_step(const ActivationQuant& activation, const float* step) {
  ActivationQuant own = activation;
  if (step != nullptr) own.scale = *step;
  return own;
}

// The step's share of the gradient of one row, lane by lane; dx is put right in place.
double row_backward(const RowGrid& grid, const float* x, float* dx, int64_t count) {
  constexpr int64_t kLanes = 8;
  std::array<double, size_t{kLanes}> sums{};
  const auto add = [&](int64_t i, int64_t lane) {
    const float quotient = x[i] / grid.scale;
    const float nearest = (std::clamp(quotient, grid.low - 1.0f, grid.high + 1.0f) + kMagic) - kMagic;
    const bool is_below = nearest<grid.low, is_above = nearest> grid.high;
    const float inside = is_below ? grid.low : nearest - quotient;
    sums[size_t(lane)] += double(dx[i]) * double(is_above ? grid.high : inside);
    const float kept = is_below ? 0.0f : dx[i];
    dx[i] = is_above ? 0.0f : kept;
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) add(i + lane, lane);
  for (; i < count; ++i) add(i, i % kLanes);
  double sum = 0.0;
  for (const double part : sums) sum += part;
  return sum;
}

}  // namespace

void TrainingBackend::round_inputs(const RoundInputsArgs& a) {
  const ActivationQuant activation = with_step(a.activation, a.step);
  parallel_ranges(a.rows, kRowsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = a.x + t * a.x_stride;
      float* target = a.out + t * a.out_stride;
      const Ends ends = ends_of(row, a.columns);
      if (!ends.is_finite) {
        std::fill_n(target, a.columns, std::numeric_limits<float>::quiet_NaN());
        continue;
      }
      const RowGrid grid = row_grid(activation, activation_grid(activation, ends.low, ends.high));
      for (int64_t i = 0; i < a.columns; ++i) target[i] = grid.scale * grid.nearest(row[i] / grid.scale);
    }
  });
}

void TrainingBackend::round_inputs_backward(const RoundInputsBackwardArgs& a) {
  const RowGrid grid = row_grid(a.activation, {.scale = *a.step, .zero_point = a.activation.zero_point});
  constexpr int64_t kPieces = 256;  // of rows, by their number alone: sums have one order
  const int64_t width = (a.rows + kPieces - 1) / kPieces;
  std::array<double, size_t{kPieces}> sums{};
  parallel_ranges(a.rows, width, [&](int64_t begin, int64_t end) {
    double& sum = sums[size_t(begin / width)];
    for (int64_t t = begin; t < end; ++t)
      sum += row_backward(grid, a.x + t * a.x_stride, a.dx + t * a.dx_stride, a.columns);
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  *a.dstep = float(double(*a.dstep) + a.share * total);
}

}  // namespace pare
