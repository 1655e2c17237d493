#include "prune/sparsegpt.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "calibrate/device_sweep.h"
#include "engine/core/parallel.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

// Chooses masks as the sweep goes, by the error that removing each weight costs while everything left of it
// is fixed: w^2 / U_ii^2.
class PruningRule final : public ColumnRule {
 public:
  PruningRule(const HessianFactor& factor, const PruneTarget& target, const SparseGptOptions& options,
              const Mask* held, ColumnRounder* rounder, Mask mask, Tensor result)
      : factor_(factor),
        target_(target),
        options_(options),
        held_(held),
        rounder_(rounder),
        mask_(std::move(mask)),
        result_(std::move(result)) {}

  Mask take_mask() { return std::move(mask_); }
  Tensor take_result() { return std::move(result_); }

  Status begin_block(const Tensor& work, int64_t begin, int64_t end) override {
    const int64_t out = work.size(0), count = end - begin;
    PARE_TRY(Tensor scores, Tensor::allocate(DType::f32, {out, count}));
    parallel_ranges(out, kLanes, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r)
        for (int64_t i = 0; i < count; ++i) {
          const float w = work.data<float>()[r * work.size(1) + begin + i];
          scores.mutable_data<float>()[r * count + i] = is_held(r, begin + i) ? 0.0f : cost(w, begin + i);
        }
    });
    PARE_TRY(const Mask chosen, choose_mask(scores, begin, end));
    keep_.assign(size_t(out * count), 1);
    begin_ = begin, count_ = count;
    for (int64_t r = 0; r < out; ++r)
      for (int64_t i = 0; i < count; ++i) keep_[size_t(r * count + i)] = chosen.kept(r, i) ? 1 : 0;
    if (rounder_ != nullptr) PARE_CHECK(rounder_->begin_block(work));
    return {};
  }

  void choose(const SweepTile& tile, int64_t position, float* chosen) override {
    const int m = target_.pattern.m;
    if (target_.pattern.kind == SparsityPattern::Kind::n_of_m && (position - begin_) % m == 0)
      choose_group(tile, position);
    alignas(64) uint8_t keep[kLanes] = {};
    for (int64_t lane = 0; lane < tile.rows; ++lane)
      keep[lane] = keep_[size_t((tile.first + lane) * count_ + position - begin_)];
    const float* values = tile.lanes(position);
    if (rounder_ != nullptr) {
      rounder_->round(tile, position, keep, chosen);
    } else {
      for (int lane = 0; lane < kLanes; ++lane) chosen[lane] = keep[lane] != 0 ? values[lane] : 0.0f;
    }
    const int32_t column = factor_.order[size_t(position)];
    for (int64_t lane = 0; lane < tile.rows; ++lane) {
      const int64_t row = tile.first + lane;
      result_.mutable_data<float>()[row * result_.size(1) + column] = chosen[lane];
      if (keep[lane] == 0) mask_.set(row, column, false);
    }
  }

 private:
  bool is_held(int64_t row, int64_t position) const {
    return held_ != nullptr && !held_->kept(row, factor_.order[size_t(position)]);
  }

  float cost(float w, int64_t position) const {
    const float u = factor_.upper.data<float>()[position * factor_.upper.size(1) + position];
    return (w / u) * (w / u);
  }

  // The mask of a block. What goes up to its end is floor(share of all columns up to there), so that the
  // whole matrix loses exactly its share whatever the width of the blocks.
  Result<Mask> choose_mask(const Tensor& scores, int64_t begin, int64_t end) const {
    const int64_t out = scores.size(0);
    const Sparsity& share = target_.sparsity;
    switch (target_.pattern.kind) {
      case SparsityPattern::Kind::n_of_m:
        // Decided group by group as the sweep reaches them.
        return Mask::all_kept(out, end - begin);
      case SparsityPattern::Kind::block:
        return select_blocks(scores, target_.pattern, share, options_.scope == Scope::row);
      default:
        if (options_.scope == Scope::row) return select_rows(scores, share.count(end) - share.count(begin));
        return select_matrix(scores, share.count(out * end) - share.count(out * begin));
    }
  }

  void choose_group(const SweepTile& tile, int64_t position) {
    const int n = target_.pattern.n, m = target_.pattern.m;
    const int width = int(std::min<int64_t>(m, tile.end - position));
    const int removed = (m - n) * width / m;
    for (int64_t lane = 0; lane < tile.rows; ++lane) {
      float scores[16];
      for (int i = 0; i < width; ++i)
        scores[i] = is_held(tile.first + lane, position + i)
                        ? 0.0f
                        : cost(tile.lanes(position + i)[lane], position + i);
      for (int i = 0; i < width; ++i) {
        int lower = 0;
        for (int j = 0; j < width; ++j) lower += scores[j] < scores[i] || (scores[j] == scores[i] && j < i);
        keep_[size_t((tile.first + lane) * count_ + position - begin_ + i)] = lower >= removed ? 1 : 0;
      }
    }
  }

  const HessianFactor& factor_;
  const PruneTarget& target_;
  const SparseGptOptions& options_;
  const Mask* held_;
  ColumnRounder* rounder_;
  Mask mask_;                  // of the matrix, natural order
  Tensor result_;              // f32 [out, in], natural order
  std::vector<uint8_t> keep_;  // of the current block, [out, count]; tiles write their rows
  int64_t begin_ = 0, count_ = 0;
};

// The bits of u8 [out, in] marks.
Result<Mask> mask_of(const Tensor& marks) {
  const int64_t out = marks.size(0), in = marks.size(1), row_bytes = (in + 7) / 8;
  PARE_TRY(const Tensor bits, Tensor::allocate(DType::u8, {out, row_bytes}));
  parallel_ranges(out, kLanes, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const uint8_t* source = marks.data<uint8_t>() + r * in;
      uint8_t* target = bits.mutable_data<uint8_t>() + r * row_bytes;
      for (int64_t i = 0; i < in; ++i) target[i / 8] |= uint8_t((source[i] != 0 ? 1 : 0) << (i % 8));
    }
  });
  return Mask(bits, out, in);
}

// Whether the kernels choose and sweep like this: blocks of columns no wider than theirs, and no whole blocks
// of weights, whose scores are sums.
bool prunes_on_device(const SparsityPattern& pattern, int64_t block, const ColumnRounder* rounder) {
  if (rounder != nullptr) return false;
  if (pattern.kind == SparsityPattern::Kind::n_of_m) return true;
  return pattern.kind == SparsityPattern::Kind::unstructured && block <= kSweepColumns;
}

Result<SparseGptOutput> sparsegpt_on_device(const Tensor& weight, const HessianFactor& factor,
                                            const PruneTarget& target, const SparseGptOptions& options,
                                            const Mask* held, std::string_view name) {
  const int64_t out = weight.size(0);
  const Device device = factor.upper.device();
  PARE_TRY(const Tensor there, moved(weight, device));
  DeviceSweepRule rule{.block = options.block, .search = {}, .keep = {}, .removed = {}};
  if (held != nullptr) {
    PARE_TRY(rule.keep, device_marks(*held, factor, device));
  }
  if (target.pattern.kind == SparsityPattern::Kind::n_of_m) {
    rule.n = target.pattern.n;
    rule.m = target.pattern.m;
    rule.block = kSweepColumns / rule.m * rule.m;
  } else {
    rule.is_per_row = options.scope == Scope::row;
    const int64_t rows = rule.is_per_row ? 1 : out;
    rule.removed = [=](int64_t begin, int64_t end) {
      return target.sparsity.count(rows * end) - target.sparsity.count(rows * begin);
    };
  }
  PARE_TRY(const DeviceSweepOutput swept, sweep_on_device(there, factor, rule));
  PARE_TRY(const Tensor marks, moved(swept.keep, Device::cpu()));
  PARE_TRY(Mask mask, mask_of(marks));
  SparseGptOutput output{.weight = {}, .mask = std::move(mask), .codes = std::nullopt, .loss = swept.loss};
  PARE_TRY(output.weight, moved(swept.values, Device::cpu()));
  PARE_CHECK(output.mask.verify(target.pattern, name));
  return output;
}

// Smallest multiple of `unit` that is at least `size`.
int64_t rounded_up(int64_t size, int64_t unit) {
  return (size + unit - 1) / unit * unit;
}

}  // namespace

Result<SparseGptOutput> sparsegpt(const Tensor& weight, const HessianFactor& factor,
                                  const PruneTarget& target, const SparseGptOptions& options,
                                  const Mask* held, ColumnRounder* rounder, std::string_view name) {
  const int64_t out = weight.size(0), in = weight.size(1);
  const bool is_unstructured = target.pattern.kind == SparsityPattern::Kind::unstructured;
  PARE_ASSERT(is_unstructured || std::is_sorted(factor.order.begin(), factor.order.end()),
              "[sparsegpt] {}: pattern {} in another order", name, target.pattern.text());
  if (!factor.upper.device().is_host()) {
    if (prunes_on_device(target.pattern, options.block, rounder))
      return sparsegpt_on_device(weight, factor, target, options, held, name);
    HessianFactor host_factor = factor;
    PARE_TRY(host_factor.upper, moved(factor.upper, Device::cpu()));
    return sparsegpt(weight, host_factor, target, options, held, rounder, name);
  }
  SweepOptions sweep{.block = options.block, .level = options.level};
  if (!is_unstructured) {
    const bool is_block = target.pattern.kind == SparsityPattern::Kind::block;
    sweep.block = rounded_up(sweep.block, is_block ? target.pattern.block_columns : target.pattern.m);
  }
  PARE_TRY(Mask all, Mask::all_kept(out, in));
  PARE_TRY(Tensor result, Tensor::allocate(DType::f32, {out, in}));
  PruningRule rule(factor, target, options, held, rounder, std::move(all), std::move(result));
  PARE_TRY(const double loss, sweep_columns(weight, factor, sweep, rule));
  SparseGptOutput output{
      .weight = rule.take_result(), .mask = rule.take_mask(), .codes = std::nullopt, .loss = loss};
  PARE_CHECK(output.mask.verify(target.pattern, name));
  if (rounder != nullptr) {
    PARE_TRY(output.codes, rounder->finish(name));
  }
  return output;
}

}  // namespace pare
