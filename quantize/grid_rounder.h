// quantize/grid_rounder.h: rounding to grids within a sweep over columns (calibrate/column_sweep.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "calibrate/column_sweep.h"
#include "quantize/lanes.h"
#include "quantize/quantizer.h"

namespace pare {

// Grids of all groups: [out, groups], and what was wrong with them. Rows are fitted from several threads.
class GroupGrids {
 public:
  GroupGrids(const QuantScheme& scheme, const QuantizeOptions& options, int64_t out, int64_t in)
      : scheme_(scheme),
        options_(options),
        groups_(scheme.groups(in)),
        width_(scheme.group_width(in)),
        in_(in),
        grids_(size_t(out * groups_)),
        faults_(size_t(out * groups_), ScaleFault::none),
        clipped_(size_t(out), 0) {}

  int64_t groups() const { return groups_; }
  int64_t width() const { return width_; }
  const Grid& grid(int64_t row, int64_t group) const { return grids_[size_t(row * groups_ + group)]; }

  // Fits group `group` of `row` to `values`, which stand for the columns that `importance` belongs to.
  void fit(int64_t row, int64_t group, std::span<const float> values, std::span<const float> importance);
  // All groups of a row of the matrix, f32 [in], in its natural order.
  void fit_row(int64_t row, const float* weights);

  // A group that was fitted elsewhere, `clipped` of whose weights are outside of its grid.
  void set(int64_t row, int64_t group, const FittedGrid& fitted, int64_t clipped) {
    grids_[size_t(row * groups_ + group)] = fitted.grid;
    faults_[size_t(row * groups_ + group)] = fitted.fault;
    clipped_[size_t(row)] += clipped;
  }

  // Adds up into `output`; exit 7 for the first scale that does not fit, unless clamping was asked for.
  Status finish(QuantizeOutput& output, std::string_view name) const;

 private:
  const QuantScheme& scheme_;
  const QuantizeOptions& options_;
  int64_t groups_, width_, in_;
  std::vector<Grid> grids_;
  std::vector<ScaleFault> faults_;
  std::vector<int64_t> clipped_;  // per row
};

// The rule of GPTQ, and what rounds survivors in joint pruning.
class GridRounder final : public ColumnRounder {
 public:
  enum class When : uint8_t {
    fitted,  // `grids` are fitted already
    ahead,   // of positions: each group when the sweep reaches it, from what its columns are then
  };
  // The references stay with the caller. scheme and options are those of `grids`.
  GridRounder(const QuantScheme& scheme, const QuantizeOptions& options, const HessianFactor& factor,
              GroupGrids& grids, When when, VectorLevel level);
  // Codes of all weights, one per byte: u8 [out, in] in natural order. Exit 6.
  Status allocate(int64_t out, int64_t in);
  const Tensor& codes() const { return codes_; }

  Status begin_block(const Tensor& work) override;
  void round(const SweepTile& tile, int64_t position, const uint8_t* keep, float* chosen) override;
  Result<QuantizedTensor> finish(std::string_view name) override;

 private:
  int64_t group_of(int64_t position) const;
  void fit_ahead(const SweepTile& tile, int64_t lane, int64_t position);
  LaneGrids& lane_grids(int64_t first, int64_t group);
  void set_lanes(int64_t first, int64_t rows, int64_t group);

  const QuantScheme& scheme_;
  const QuantizeOptions& options_;
  const HessianFactor& factor_;
  GroupGrids& grids_;
  When when_;
  const LaneKernels& kernels_;
  const Tensor* work_ = nullptr;  // of the current block
  Tensor codes_;
  std::vector<LaneGrids> lanes_;  // [tiles, groups]
};

}  // namespace pare
