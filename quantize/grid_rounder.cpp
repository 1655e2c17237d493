#include "quantize/grid_rounder.h"

#include <algorithm>

#include "engine/core/parallel.h"
#include "quantize/matrix_codes.h"

namespace pare {

void GroupGrids::fit(int64_t row, int64_t group, std::span<const float> values,
                     std::span<const float> importance) {
  const FittedGrid fitted = options_.clip_search ? fit_clipped(scheme_, values, options_.clip, importance)
                                                 : fit_min_max(scheme_, values);
  grids_[size_t(row * groups_ + group)] = fitted.grid;
  faults_[size_t(row * groups_ + group)] = fitted.fault;
  if (options_.clip_search) clipped_[size_t(row)] += count_clipped(scheme_, fitted.grid, values);
}

void GroupGrids::fit_row(int64_t row, const float* weights) {
  for (int64_t group = 0; group < groups_; ++group) {
    const int64_t begin = group * width_, count = std::min(width_, in_ - begin);
    fit(row, group, std::span(weights + begin, size_t(count)),
        options_.importance.empty() ? options_.importance
                                    : options_.importance.subspan(size_t(begin), size_t(count)));
  }
}

Status GroupGrids::finish(QuantizeOutput& output, std::string_view name) const {
  for (size_t i = 0; i < faults_.size(); ++i) {
    if (faults_[i] == ScaleFault::none) continue;
    if (faults_[i] == ScaleFault::raised) {
      ++output.raised_scales;
      continue;
    }
    if (!options_.clamp_scales)
      return scale_error(scheme_, name, int64_t(i) / groups_, int64_t(i) % groups_, faults_[i]);
    ++output.clamped_scales;
  }
  for (const int64_t count : clipped_) output.clipped_weights += count;
  return {};
}

GridRounder::GridRounder(const QuantScheme& scheme, const QuantizeOptions& options,
                         const HessianFactor& factor, GroupGrids& grids, When when, VectorLevel level)
    : scheme_(scheme),
      options_(options),
      factor_(factor),
      grids_(grids),
      when_(when),
      kernels_(lane_kernels(std::min(level, host_vector_level()))) {}

Status GridRounder::allocate(int64_t out, int64_t in) {
  PARE_TRY(codes_, Tensor::allocate(DType::u8, {out, in}));
  const int64_t tiles = (out + kLanes - 1) / kLanes;
  LaneGrids empty;
  for (int lane = 0; lane < kLanes; ++lane) empty.set(lane, Grid{});
  lanes_.assign(size_t(tiles * grids_.groups()), empty);
  if (when_ != When::fitted) return {};
  for (int64_t first = 0; first < out; first += kLanes)
    for (int64_t group = 0; group < grids_.groups(); ++group)
      set_lanes(first, std::min<int64_t>(kLanes, out - first), group);
  return {};
}

LaneGrids& GridRounder::lane_grids(int64_t first, int64_t group) {
  return lanes_[size_t(first / kLanes * grids_.groups() + group)];
}

void GridRounder::set_lanes(int64_t first, int64_t rows, int64_t group) {
  LaneGrids& lanes = lane_grids(first, group);
  for (int64_t lane = 0; lane < rows; ++lane) lanes.set(int(lane), grids_.grid(first + lane, group));
}

// Group of the column that is number `position` in the order.
int64_t GridRounder::group_of(int64_t position) const {
  return (when_ == When::ahead ? position : int64_t(factor_.order[size_t(position)])) / grids_.width();
}

Status GridRounder::begin_block(const Tensor& work) {
  work_ = &work;
  return {};
}

// The grid of the group that begins at `position`, from the weights of a row as they are now: those of this
// block in the tile, those behind it in `work`, which lack this block's share; a group that reaches beyond
// the block therefore sees the state at the block's start there, as in the paper's code.
void GridRounder::fit_ahead(const SweepTile& tile, int64_t lane, int64_t position) {
  const int64_t in = work_->size(1);
  const int64_t row = tile.first + lane, last = std::min(in, position + grids_.width());
  const float* work = work_->data<float>() + row * in;
  std::vector<float> values, importance;
  for (int64_t p = position; p < last; ++p) {
    values.push_back(p < tile.end ? tile.lanes(p)[lane] : work[p]);
    if (!options_.importance.empty())
      importance.push_back(options_.importance[size_t(factor_.order[size_t(p)])]);
  }
  grids_.fit(row, position / grids_.width(), values, importance);
}

void GridRounder::round(const SweepTile& tile, int64_t position, const uint8_t* keep, float* chosen) {
  const int64_t in = codes_.size(1), group = group_of(position);
  if (when_ == When::ahead && position % grids_.width() == 0) {
    for (int64_t lane = 0; lane < tile.rows; ++lane) fit_ahead(tile, lane, position);
    set_lanes(tile.first, tile.rows, group);
  }
  alignas(64) float values[kLanes];
  for (int lane = 0; lane < kLanes; ++lane)
    values[lane] = keep != nullptr && keep[lane] == 0 ? 0.0f : tile.lanes(position)[lane];
  uint8_t* codes = codes_.mutable_data<uint8_t>() + tile.first * in + factor_.order[size_t(position)];
  if (scheme_.kind == QuantScheme::Kind::integer) {
    alignas(64) int32_t column[kLanes];
    const bool is_narrow = scheme_.is_symmetric() && scheme_.range == QuantScheme::Range::narrow;
    kernels_.round_column(values, lane_grids(tile.first, group), is_narrow ? 1.0f : 0.0f,
                          float(scheme_.code_count() - 1), column, chosen);
    for (int64_t lane = 0; lane < tile.rows; ++lane) codes[lane * in] = uint8_t(column[lane]);
  } else {
    for (int64_t lane = 0; lane < tile.rows; ++lane) {
      const Grid& grid = grids_.grid(tile.first + lane, group);
      uint8_t* code = codes + lane * in;
      encode(scheme_, grid, std::span(values + lane, 1), code);
      decode(scheme_, grid, std::span(code, 1), chosen + lane);
    }
  }
  if (keep == nullptr) return;
  for (int lane = 0; lane < kLanes; ++lane)
    if (keep[lane] == 0) chosen[lane] = 0.0f;  // whatever the grid says: it is not stored
}

Result<QuantizedTensor> GridRounder::finish(std::string_view name) {
  const int64_t out = codes_.size(0), in = codes_.size(1);
  QuantizeOutput output;
  PARE_TRY(output.tensor, QuantizedTensor::allocate(scheme_, out, in));
  PARE_CHECK(grids_.finish(output, name));
  parallel_ranges(out, kLanes, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      for (int64_t g = 0; g < grids_.groups(); ++g)
        store_grid(output.tensor, r * grids_.groups() + g, grids_.grid(r, g));
      store_codes(output.tensor, r, codes_.data<uint8_t>() + r * in);
    }
  });
  return std::move(output.tensor);
}

}  // namespace pare
