// engine/tensor/column_solver.h: the loops of GPTQ and SparseGPT on a device: grids of groups, blocks of
// columns that get their final values one after the other, and what the rest and the output lose by it.
//
// The definition of each is host code of the methods (calibrate/column_sweep, quantize/grid*,
// prune/sparsegpt); within a block of columns every operation is the same float operation in the same order,
// so codes and masks are the same bytes as there. Sums over many columns (update_rest, energy) are made in
// another order.
//
// Matrices are row-major; "positions" are columns in the order of the factor. All pointers are of the device.
// Nothing allocates or waits. Any size from 1 on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/tensor/dtype.h"

namespace pare {

// Codes of an integer scheme: 0 (narrow: 1) to code_count - 1, at most 8 bits.
struct GridFormat {
  int32_t code_count;
  bool is_symmetric;  // zero point code_count / 2
  bool is_narrow;     // symmetric: code 0 is left out
  bool has_minimum;   // real = minimum + scale * code, 0 need not be in the range
  DType scale_dtype;  // f16, bf16, f32
};

// Grids of groups of `width` columns: real = minimum + scale * (code - zero). The arrays are [rows, groups],
// groups = ceil(columns / width).
struct GridArrays {
  float* scales;
  float* zeros;
  float* minimums;
  uint8_t* faults;   // GridFault
  int32_t* clipped;  // weights more than half a step outside of what the codes reach
};
enum class GridFault : uint8_t { none, raised, too_small, too_large };

// How ranges of groups are chosen.
struct RangeSearch {
  int32_t steps;            // 0: smallest and largest value; else that many ranges are tried
  int32_t grid;             // shrunken by 1 - step / grid
  const float* importance;  // [columns] weight of each column in the squared error; null: 1
};

// The grid of each group of each row, in place of quantize/grid_search.
struct FitGridsArgs {
  const float* values;  // [rows, columns]
  int64_t rows, columns, stride, width;
  GridFormat format;
  RangeSearch search;
  GridArrays grids;
};

// codes = nearest codes of values; restored = what they stand for. Group of column j: j / width.
struct RoundToGridsArgs {
  const float* values;                   // [rows, columns]
  uint8_t* codes;                        // [rows, columns]
  float* restored;                       // [rows, columns]
  int64_t rows, columns, stride, width;  // stride: of values; the outputs are contiguous
  GridFormat format;
  GridArrays grids;
};

// Columns by an order. T of 1 or 4 bytes.
//   gather:  out[r, i] = x[r, order[i]]
//   scatter: out[r, order[i]] = x[r, i]
struct PermuteColumnsArgs {
  const void* x;
  void* out;
  const int32_t* order;  // [columns], a permutation
  int64_t rows, columns, element_bytes;
  bool is_scatter;
};

// Which columns of a block survive, before the sweep reaches it: score of a weight w at position i is
// (w / U_ii)^2; those that `keep` already excludes score 0.
struct ChooseKeptArgs {
  const float* work;   // [rows, columns]
  const float* upper;  // [columns, columns]
  uint8_t* keep;       // [rows, columns]; columns begin .. end - 1 are read (may it be kept?) and written
  int64_t rows, columns, begin, end;
  int64_t removed;  // how many go: of the whole block, or of each row
  bool is_per_row;  // else over all rows, ties by (row, column)
  void* workspace;  // choose_kept_workspace_bytes(rows) bytes, aligned to 8
};

// Positions begin .. end - 1 (at most kSweepColumns) of all rows, one after the other: the column gets its
// final values, and its error e = (w - chosen) / U_ii is carried into the later columns of the block.
inline constexpr int64_t kSweepColumns = 128;
struct SweepBlockArgs {
  float* work;           // [rows, columns]: current values; those of the block become the chosen ones
  const float* upper;    // [columns, columns] U with U^T U = (H + damping)^-1, in the order of positions
  const int32_t* order;  // [columns]: column of a position
  float* errors;         // [rows, kSweepColumns]: -e
  double* loss;          // [rows]: the squares of e are added
  int64_t rows, columns, begin, end;

  // What is kept: [rows, columns] by position, null: all. With n of m (m > 0) chosen here for each m
  // positions from `begin` on, among those that `keep` allows, and written to it; a last group of width v
  // loses floor((m - n) v / m).
  uint8_t* keep;
  int32_t n, m;

  // Rounding of what is kept; off when codes is null.
  uint8_t* codes;  // [rows, columns] by position
  GridFormat format;
  GridArrays grids;
  int64_t width;   // columns per group
  bool fit_ahead;  // groups are of positions, and are fitted here when the sweep reaches them; else they are
                   // of columns and fitted already
  RangeSearch search;  // of fit_ahead; importance by column, not position
};

// work[:, end ..] += errors * U[begin .. end - 1, end ..]
struct UpdateRestArgs {
  float* work;          // [rows, columns]
  const float* upper;   // [columns, columns]
  const float* errors;  // [rows, kSweepColumns]
  int64_t rows, columns, begin, end;
};

// sums[r] = d_r H d_r^T with d = a - b
struct OutputEnergyArgs {
  const float* a;       // [rows, columns]
  const float* b;       // [rows, columns], null: zeros
  const float* moment;  // [columns, columns], symmetric
  double* sums;         // [rows]
  int64_t rows, columns;
  void* workspace;  // output_energy_workspace_bytes(rows, columns) bytes, aligned to 8
};

// Per row: sum of (a - b)^2, sum of a^2, largest |a - b|; [rows, 3]
struct RowErrorsArgs {
  const float* a;
  const float* b;
  double* sums;
  int64_t rows, columns;
};

// counts[0, bin] += values >= 0, counts[1, bin] += values < 0, by |x|; bin = min(bins - 1, floor(|x| bins /
// limit)). With limit 0: zeros in the first bin, everything else in the last.
struct CountMagnitudesArgs {
  const float* x;    // [rows, columns]
  uint64_t* counts;  // [2, bins]
  int64_t rows, columns, stride;
  int32_t bins;  // at most 2048
  double limit;
};

class ColumnSolver {
 public:
  virtual ~ColumnSolver() = default;
  virtual void fit_grids(const FitGridsArgs&) = 0;
  virtual void round_to_grids(const RoundToGridsArgs&) = 0;
  virtual void permute_columns(const PermuteColumnsArgs&) = 0;
  virtual size_t choose_kept_workspace_bytes(int64_t rows) const = 0;
  virtual void choose_kept(const ChooseKeptArgs&) = 0;
  virtual void sweep_block(const SweepBlockArgs&) = 0;
  virtual void update_rest(const UpdateRestArgs&) = 0;
  virtual size_t output_energy_workspace_bytes(int64_t rows, int64_t columns) const = 0;
  virtual void output_energy(const OutputEnergyArgs&) = 0;
  virtual void row_errors(const RowErrorsArgs&) = 0;
  virtual void count_magnitudes(const CountMagnitudesArgs&) = 0;
};

}  // namespace pare
