// What every host does alike.
#include "engine/tensor/training_backend.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

constexpr int64_t kPiece = 16'384;  // elements at a time
constexpr int64_t kRowsAtOnce = 64, kColumnsAtOnce = 64;

float stored(DType dtype, float value) {
  switch (dtype) {
    case DType::f16:
      return f16_to_float(float_to_f16(value));
    case DType::bf16:
      return bf16_to_float(float_to_bf16(value));
    default:
      return value;
  }
}

}  // namespace

void TrainingBackend::adamw_list(std::span<const AdamWArgs> list) {
  for (const AdamWArgs& a : list) adamw(a);
}

double TrainingBackend::sum_of_squares_list(std::span<const SquaresArgs> list) {
  double sum = 0.0;
  for (const SquaresArgs& a : list) sum += sum_of_squares(a.x, a.count);
  return sum;
}

void TrainingBackend::apply_mask(const MaskArgs& a) {
  parallel_ranges(a.rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* kept = a.kept + row * a.row_bytes;
      for (int64_t c = 0; c < a.columns; ++c)
        if ((kept[c / 8] >> (c % 8) & 1) == 0) a.x[row * a.columns + c] = 0.0f;
    }
  });
}

void TrainingBackend::column_sums(const ColumnSumsArgs& a) {
  parallel_ranges(a.columns, kColumnsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < a.rows; ++row) {
      const float* from = a.x + row * a.stride;
      for (int64_t c = begin; c < end; ++c) a.sums[c] += from[c];
    }
  });
}

void TrainingBackend::scale(const ScaleArgs& a) {
  parallel_ranges(a.count, kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) a.out[i] = a.factor * a.x[i];
  });
}

void TrainingBackend::round(const RoundArgs& a) {
  PARE_ASSERT(a.dtype == DType::bf16 || a.dtype == DType::f16, "[round] to {}", dtype_name(a.dtype));
  auto* out = static_cast<uint16_t*>(a.out);
  parallel_ranges(a.count, kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      out[i] = a.dtype == DType::bf16 ? float_to_bf16(a.x[i]) : float_to_f16(a.x[i]);
  });
}

void TrainingBackend::bound_steps(const BoundStepsArgs& a) {
  parallel_ranges(a.count, kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const bool is_finite = std::isfinite(a.steps[i]);
      a.steps[i] =
          is_finite ? std::clamp(a.steps[i], a.least, a.most) : std::numeric_limits<float>::quiet_NaN();
      if (i < a.scale_count) a.scales[i] = is_finite ? stored(a.dtype, a.steps[i]) : a.steps[i];
    }
  });
  if (a.count == 1) std::fill_n(a.scales, a.scale_count, a.scales[0]);
}

}  // namespace pare
