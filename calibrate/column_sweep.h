// calibrate/column_sweep.h: the sweep that GPTQ and SparseGPT share. Columns are given their final values one
// after the other; what a column loses is made up for by the columns behind it, as the second moment of the
// input says. Source: Frantar et al., "Optimal Brain Compression" (2022), "GPTQ" (2023), "SparseGPT" (2023).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "calibrate/hessian.h"
#include "calibrate/vector_level.h"
#include "engine/core/result.h"
#include "engine/tensor/quantized_tensor.h"
#include "engine/tensor/tensor.h"

namespace pare {

// Rows that go through a block of columns together; values of one column stand side by side ("lanes"), so
// that the sweep is vector operations across rows.
inline constexpr int kLanes = 16;

// Columns at positions [begin, end) of the factor's order, for rows [first, first + rows).
struct SweepTile {
  int64_t first, rows;  // rows <= kLanes; lanes without a row hold zeros
  int64_t begin, end;
  const float* values;  // [end - begin, kLanes]: current values from the position that is asked for on

  const float* lanes(int64_t position) const { return values + (position - begin) * kLanes; }
};

// Which final values columns get.
class ColumnRule {
 public:
  virtual ~ColumnRule() = default;
  // Before a block: `work` f32 [out, in], in the factor's order, holds the current values of all columns from
  // `begin` on.
  virtual Status begin_block(const Tensor& work, int64_t begin, int64_t end) {
    static_cast<void>(work), static_cast<void>(begin), static_cast<void>(end);
    return {};
  }
  // chosen[lane] of the column at `position`; the lanes are zero beforehand. Positions of a tile come in
  // rising order; tiles come from several threads.
  virtual void choose(const SweepTile& tile, int64_t position, float* chosen) = 0;
};

struct SweepOptions {
  int64_t block = 128;  // columns between updates of the rest; the result does not depend on it in exact
                        // arithmetic
  VectorLevel level = VectorLevel::avx512;  // the widest vectors that may be used; the result is the same
};

// weight f32 [out, in]; factor: not failed, with data. Gives 1/2 sum e^2 = 1/2 tr(D (H + damping) D^T) over
// live columns. Same bytes for any thread count. Exit 6.
Result<double> sweep_columns(const Tensor& weight, const HessianFactor& factor, const SweepOptions& options,
                             ColumnRule& rule);

// values[j][l] -= errors[l] * upper[j] for the `count` columns at `values` [count, kLanes]. By the same
// operations in the same order on all levels: same bytes.
using LaneSubtract = void (*)(float* values, const float* errors, const float* upper, int64_t count);
LaneSubtract lane_subtract(VectorLevel level);

// A grid that kept weights are rounded to within the sweep, for methods that choose what is kept and do not
// know grids. One object serves one matrix.
class ColumnRounder {
 public:
  virtual ~ColumnRounder() = default;
  // Before a block, as of ColumnRule.
  virtual Status begin_block(const Tensor& work) = 0;
  // keep: per lane, or null. What is not kept becomes zero.
  virtual void round(const SweepTile& tile, int64_t position, const uint8_t* keep, float* chosen) = 0;
  // The codes, after the sweep. Exit 7 (NU17).
  virtual Result<QuantizedTensor> finish(std::string_view name) = 0;
};

// Makes the rounder of a matrix, with grids that fit `weight`. moment: X^T X, f32 [in, in].
using RounderFactory = std::function<Result<std::unique_ptr<ColumnRounder>>(
    const Tensor& weight, const HessianFactor& factor, const Tensor& moment, std::string_view name)>;

}  // namespace pare
