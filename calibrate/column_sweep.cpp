#include "calibrate/column_sweep.h"

#include <algorithm>
#include <array>
#include <vector>

#include "engine/core/parallel.h"
#include "engine/tensor/ops.h"

namespace pare {
namespace {

class Sweep {
 public:
  Sweep(const Tensor& weight, const HessianFactor& factor, const SweepOptions& options, ColumnRule& rule)
      : weight_(weight),
        factor_(factor),
        rule_(rule),
        subtract_(lane_subtract(std::min(options.level, host_vector_level()))),
        out_(weight.size(0)),
        in_(weight.size(1)),
        block_(std::min(options.block, in_)) {}

  Status run() {
    PARE_TRY(work_, Tensor::allocate(DType::f32, {out_, in_}));
    PARE_TRY(errors_, Tensor::allocate(DType::f32, {out_, block_}));
    PARE_TRY(panel_, Tensor::allocate(DType::f32, {in_, block_}));
    PARE_TRY(workspace_, Workspace::reserve(ops::matmul_workspace_bytes(Device::cpu(), out_, in_, block_),
                                            Device::cpu()));
    row_loss_.assign(size_t(out_), 0.0);
    gather_columns();
    for (int64_t begin = 0; begin < in_; begin += block_) {
      const int64_t end = std::min(in_, begin + block_);
      PARE_CHECK(rule_.begin_block(work_, begin, end));
      parallel_ranges(out_, kLanes,
                      [&](int64_t first, int64_t last) { sweep_tile(first, last, begin, end); });
      if (end < in_) update_rest(begin, end);
    }
    return {};
  }

  double loss() const {
    double total = 0.0;
    for (const double loss : row_loss_) total += loss;
    return 0.5 * total;
  }

 private:
  void gather_columns() {
    const float* source = weight_.data<float>();
    float* target = work_.mutable_data<float>();
    parallel_ranges(out_, kLanes, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r)
        for (int64_t i = 0; i < in_; ++i) target[r * in_ + i] = source[r * in_ + factor_.order[size_t(i)]];
    });
  }

  // Positions [begin, end) of rows [first, last), at most kLanes of them: one column after the other gets its
  // values and carries its errors into the columns behind it.
  void sweep_tile(int64_t first, int64_t last, int64_t begin, int64_t end) {
    const float* upper = factor_.upper.data<float>();
    const int64_t count = end - begin, rows = last - first;
    std::vector<float> tile(size_t(count * kLanes), 0.0f);  // [count, kLanes]
    for (int64_t lane = 0; lane < rows; ++lane) {
      const float* work = work_.data<float>() + (first + lane) * in_ + begin;
      for (int64_t i = 0; i < count; ++i) tile[size_t(i * kLanes + lane)] = work[i];
    }
    const SweepTile view{.first = first, .rows = rows, .begin = begin, .end = end, .values = tile.data()};
    std::array<double, kLanes> losses{};
    for (int64_t i = 0; i < count; ++i) {
      float* values = tile.data() + i * kLanes;
      alignas(64) float chosen[kLanes] = {}, errors[kLanes];
      rule_.choose(view, begin + i, chosen);
      const float* u = upper + (begin + i) * in_ + begin;
      for (int lane = 0; lane < kLanes; ++lane) {
        errors[lane] = (values[lane] - chosen[lane]) / u[i];
        losses[size_t(lane)] += double(errors[lane]) * double(errors[lane]);
      }
      subtract_(values + kLanes, errors, u + i + 1, count - i - 1);
      for (int lane = 0; lane < kLanes; ++lane) values[lane] = -errors[lane];  // the column is done with
    }
    for (int64_t lane = 0; lane < rows; ++lane) {
      row_loss_[size_t(first + lane)] += losses[size_t(lane)];
      float* errors = errors_.mutable_data<float>() + (first + lane) * errors_.size(1);
      for (int64_t i = 0; i < count; ++i) errors[i] = tile[size_t(i * kLanes + lane)];
    }
  }

  // work[:, end:] += errors * U[begin:end, end:]
  void update_rest(int64_t begin, int64_t end) {
    const int64_t count = end - begin, rest = in_ - end;
    const float* upper = factor_.upper.data<float>();
    Tensor panel = panel_.storage() ? Tensor(panel_.storage(), 0, DType::f32, {rest, count}) : Tensor();
    float* target = panel.mutable_data<float>();
    parallel_ranges(rest, 64, [&](int64_t first, int64_t last) {
      for (int64_t j = first; j < last; ++j)
        for (int64_t i = 0; i < count; ++i) target[j * count + i] = upper[(begin + i) * in_ + end + j];
    });
    Tensor out = work_.columns(end, in_);
    ops::matmul(errors_.columns(0, count), panel, Tensor(), /*accumulate=*/true, out, workspace_);
  }

  const Tensor& weight_;
  const HessianFactor& factor_;
  ColumnRule& rule_;
  LaneSubtract subtract_;
  int64_t out_, in_, block_;
  Tensor work_;    // f32 [out, in], columns in the factor's order
  Tensor errors_;  // f32 [out, block], negated
  Tensor panel_;
  Workspace workspace_;
  std::vector<double> row_loss_;
};

}  // namespace

Result<double> sweep_columns(const Tensor& weight, const HessianFactor& factor, const SweepOptions& options,
                             ColumnRule& rule) {
  PARE_ASSERT(!factor.failed && !factor.all_dead, "[sweep] no factor");
  Sweep sweep(weight, factor, options, rule);
  PARE_CHECK(sweep.run());
  return sweep.loss();
}

}  // namespace pare
