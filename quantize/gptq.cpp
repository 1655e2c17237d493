#include "quantize/gptq.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/ops.h"
#include "engine/tensor/tensor_scan.h"
#include "quantize/lanes.h"
#include "quantize/matrix_codes.h"
#include "calibrate/output_error.h"

namespace pare {
namespace {

constexpr int64_t kRowsPerItem = 16;
static_assert(kRowsPerItem == kLanes);

// Grids of all groups: [out, groups], and what was wrong with them.
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
  void fit(int64_t row, int64_t group, std::span<const float> values, std::span<const float> importance) {
    const FittedGrid fitted = options_.clip_search ? fit_clipped(scheme_, values, options_.clip, importance)
                                                   : fit_min_max(scheme_, values);
    grids_[size_t(row * groups_ + group)] = fitted.grid;
    faults_[size_t(row * groups_ + group)] = fitted.fault;
    if (options_.clip_search) clipped_[size_t(row)] += count_clipped(scheme_, fitted.grid, values);
  }

  void fit_row(int64_t row, const float* weights) {
    for (int64_t group = 0; group < groups_; ++group) {
      const int64_t begin = group * width_, count = std::min(width_, in_ - begin);
      fit(row, group, std::span(weights + begin, size_t(count)),
          options_.importance.empty() ? options_.importance
                                      : options_.importance.subspan(size_t(begin), size_t(count)));
    }
  }

  // Adds up into `output`; exit 7 for the first scale that does not fit, unless clamping was asked for.
  Status finish(QuantizeOutput& output, std::string_view name) const {
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

 private:
  const QuantScheme& scheme_;
  const QuantizeOptions& options_;
  int64_t groups_, width_, in_;
  std::vector<Grid> grids_;
  std::vector<ScaleFault> faults_;
  std::vector<int64_t> clipped_;  // per row
};

// The sweep over columns in the order of the factor. Work matrices are in that order; codes are not.
class Sweep {
 public:
  Sweep(const Tensor& weight, const HessianFactor& factor, const QuantScheme& scheme,
        const QuantizeOptions& options, const GptqOptions& gptq, GroupGrids& grids)
      : weight_(weight),
        factor_(factor),
        scheme_(scheme),
        options_(options),
        gptq_(gptq),
        grids_(grids),
        kernels_(lane_kernels(std::min(gptq.level, host_vector_level()))),
        out_(weight.size(0)),
        in_(weight.size(1)) {}

  Status run() {
    const int64_t block = std::min(gptq_.block, in_);
    PARE_TRY(work_, Tensor::allocate(DType::f32, {out_, in_}));
    PARE_TRY(errors_, Tensor::allocate(DType::f32, {out_, block}));
    PARE_TRY(codes_, Tensor::allocate(DType::u8, {out_, in_}));
    PARE_TRY(panel_, Tensor::allocate(DType::f32, {in_, block}));
    PARE_TRY(workspace_,
             Workspace::reserve(ops::matmul_workspace_bytes(Device::cpu(), out_, in_, block), Device::cpu()));
    row_loss_.assign(size_t(out_), 0.0);
    gather_columns();
    for (int64_t begin = 0; begin < in_; begin += block) {
      const int64_t end = std::min(in_, begin + block);
      parallel_ranges(out_, kLanes,
                      [&](int64_t first, int64_t last) { round_tile(first, last, begin, end); });
      if (end < in_) update_rest(begin, end);
    }
    return {};
  }

  const Tensor& codes() const { return codes_; }
  double loss() const {
    double total = 0.0;
    for (const double loss : row_loss_) total += loss;
    return 0.5 * total;
  }

 private:
  void gather_columns() {
    const float* source = weight_.data<float>();
    float* target = work_.mutable_data<float>();
    parallel_ranges(out_, kRowsPerItem, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r)
        for (int64_t i = 0; i < in_; ++i) target[r * in_ + i] = source[r * in_ + factor_.order[size_t(i)]];
    });
  }

  // Group of the column that is number `position` in the order.
  int64_t group_of(int64_t position) const {
    return (gptq_.static_groups ? int64_t(factor_.order[size_t(position)]) : position) / grids_.width();
  }

  // Columns [begin, end) of rows [first, last), at most kLanes of them: rounds one column after the other and
  // carries its errors into the columns behind it.
  void round_tile(int64_t first, int64_t last, int64_t begin, int64_t end) {
    const float* upper = factor_.upper.data<float>();
    const int64_t count = end - begin, rows = last - first;
    std::vector<float> tile(size_t(count * kLanes), 0.0f);  // [count, kLanes]
    for (int64_t lane = 0; lane < rows; ++lane) {
      const float* work = work_.data<float>() + (first + lane) * in_ + begin;
      for (int64_t i = 0; i < count; ++i) tile[size_t(i * kLanes + lane)] = work[i];
    }
    std::array<double, kLanes> losses{};
    LaneGrids grids;
    for (int lane = 0; lane < kLanes; ++lane) grids.set(lane, Grid{});
    int64_t group = -1;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t position = begin + i;
      if (!gptq_.static_groups && position % grids_.width() == 0)
        for (int64_t lane = 0; lane < rows; ++lane) fit_ahead(first, lane, position, end, tile, i);
      if (const int64_t next = group_of(position); next != group) {
        group = next;
        for (int64_t lane = 0; lane < rows; ++lane) grids.set(int(lane), grids_.grid(first + lane, group));
      }
      float* values = tile.data() + i * kLanes;
      alignas(64) float restored[kLanes] = {}, errors[kLanes];
      round_column(first, rows, position, group, grids, values, restored);
      const float* u = upper + position * in_ + begin;
      for (int lane = 0; lane < kLanes; ++lane) {
        errors[lane] = (values[lane] - restored[lane]) / u[i];
        losses[size_t(lane)] += double(errors[lane]) * double(errors[lane]);
      }
      kernels_.subtract(values + kLanes, errors, u + i + 1, count - i - 1);
      for (int lane = 0; lane < kLanes; ++lane) values[lane] = -errors[lane];  // the column is done with
    }
    for (int64_t lane = 0; lane < rows; ++lane) {
      row_loss_[size_t(first + lane)] += losses[size_t(lane)];
      float* errors = errors_.mutable_data<float>() + (first + lane) * errors_.size(1);
      for (int64_t i = 0; i < count; ++i) errors[i] = tile[size_t(i * kLanes + lane)];
    }
  }

  // Codes of one column of a tile, and the values that they stand for.
  void round_column(int64_t first, int64_t rows, int64_t position, int64_t group, const LaneGrids& grids,
                    const float* values, float* restored) {
    uint8_t* codes = codes_.mutable_data<uint8_t>() + first * in_ + factor_.order[size_t(position)];
    if (scheme_.kind == QuantScheme::Kind::integer) {
      alignas(64) int32_t column[kLanes];
      const bool is_narrow = scheme_.is_symmetric() && scheme_.range == QuantScheme::Range::narrow;
      kernels_.round_column(values, grids, is_narrow ? 1.0f : 0.0f, float(scheme_.code_count() - 1), column,
                            restored);
      for (int64_t lane = 0; lane < rows; ++lane) codes[lane * in_] = uint8_t(column[lane]);
      return;
    }
    for (int64_t lane = 0; lane < rows; ++lane) {
      const Grid& grid = grids_.grid(first + lane, group);
      uint8_t* code = codes + lane * in_;
      encode(scheme_, grid, std::span(values + lane, 1), code);
      decode(scheme_, grid, std::span(code, 1), restored + lane);
    }
  }

  // The grid of the group that begins at `position`, from the weights of a row as they are now: those of this
  // block in `tile`, those behind it in `work_`, which lack this block's share; a group that reaches beyond
  // the block therefore sees the state at the block's start there, as in the paper's code.
  void fit_ahead(int64_t first, int64_t lane, int64_t position, int64_t end, const std::vector<float>& tile,
                 int64_t i) {
    const int64_t row = first + lane, last = std::min(in_, position + grids_.width());
    const float* work = work_.data<float>() + row * in_;
    std::vector<float> values, importance;
    for (int64_t p = position; p < last; ++p) {
      values.push_back(p < end ? tile[size_t((i + p - position) * kLanes + lane)] : work[p]);
      if (!options_.importance.empty())
        importance.push_back(options_.importance[size_t(factor_.order[size_t(p)])]);
    }
    grids_.fit(row, position / grids_.width(), values, importance);
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
  const QuantScheme& scheme_;
  const QuantizeOptions& options_;
  const GptqOptions& gptq_;
  GroupGrids& grids_;
  const LaneKernels& kernels_;
  int64_t out_, in_;
  Tensor work_;    // f32 [out, in], columns in the factor's order
  Tensor errors_;  // f32 [out, block], negated
  Tensor codes_;   // u8 [out, in], natural order
  Tensor panel_;
  Workspace workspace_;
  std::vector<double> row_loss_;
};

struct Errors {
  double squared = 0.0, weight = 0.0, largest = 0.0;
};

// Codes and grids into `output`, and the plain errors of the weights.
// codes: u8 [out, in], one per byte.
Status assemble(const Tensor& weight, const GroupGrids& grids, const Tensor& codes, QuantizeOutput& output,
                Tensor& restored) {
  const int64_t out = weight.size(0), in = weight.size(1);
  PARE_TRY(restored, Tensor::allocate(DType::f32, {out, in}));
  std::vector<Errors> errors(static_cast<size_t>(out));
  parallel_ranges(out, kRowsPerItem, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      for (int64_t g = 0; g < grids.groups(); ++g)
        store_grid(output.tensor, r * grids.groups() + g, grids.grid(r, g));
      store_codes(output.tensor, r, codes.data<uint8_t>() + r * in);
      float* values = restored.mutable_data<float>() + r * in;
      output.tensor.dequantize_rows(r, r + 1, values);
      const float* w = weight.data<float>() + r * in;
      Errors& mine = errors[size_t(r)];
      for (int64_t i = 0; i < in; ++i) {
        const double difference = double(w[i]) - double(values[i]);
        mine.squared += difference * difference;
        mine.weight += double(w[i]) * double(w[i]);
        mine.largest = std::max(mine.largest, std::abs(difference));
      }
    }
  });
  Errors total;
  for (const Errors& row : errors) {
    total.squared += row.squared;
    total.weight += row.weight;
    total.largest = std::max(total.largest, row.largest);
  }
  output.max_error = total.largest;
  output.relative_error = total.weight > 0.0 ? std::sqrt(total.squared / total.weight) : 0.0;
  return {};
}

// sqrt(tr(D H D^T) / energy), D = weight - restored.
Result<double> share_of(double energy, const Tensor& weight, const Tensor& restored, const Tensor& moment) {
  PARE_TRY(const double error, error_energy(weight, restored, moment));
  return energy > 0.0 ? std::sqrt(error / energy) : 0.0;
}

// Plain rounding on `grids`, which were fitted to `weight`.
Result<GptqOutput> rounded(const Tensor& weight, const Tensor& moment, double energy, const GroupGrids& grids,
                           const QuantScheme& scheme, std::string_view name) {
  const int64_t out = weight.size(0), in = weight.size(1);
  PARE_TRY(Tensor codes, Tensor::allocate(DType::u8, {out, in}));
  uint8_t* target = codes.mutable_data<uint8_t>();
  parallel_ranges(out, kRowsPerItem, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t g = 0; g < grids.groups(); ++g) {
        const int64_t begin = r * in + g * grids.width();
        const int64_t count = std::min(grids.width(), in - g * grids.width());
        encode(scheme, grids.grid(r, g), std::span(weight.data<float>() + begin, size_t(count)),
               target + begin);
      }
  });
  GptqOutput output;
  PARE_TRY(output.result.tensor, QuantizedTensor::allocate(scheme, out, in));
  PARE_CHECK(grids.finish(output.result, name));
  Tensor restored;
  PARE_CHECK(assemble(weight, grids, codes, output.result, restored));
  PARE_TRY(output.output_error, share_of(energy, weight, restored, moment));
  output.rtn_output_error = output.output_error;
  return output;
}

Status check_scheme(const QuantScheme& scheme, std::string_view name) {
  const bool is_custom = scheme.kind == QuantScheme::Kind::codebook && scheme.codebook != "nf4";
  if (!is_custom && scheme.granularity != QuantScheme::Granularity::tensor) return {};
  return Error{.exit = Exit::unsupported,
               .rule = "RC14",
               .path = {},
               .where = quote(name),
               .what = "gptq needs a scale per channel or group, and a codebook with fixed values",
               .got = scheme.text(),
               .limit = {}};
}

}  // namespace

Result<GptqOutput> gptq(const Tensor& weight, const Tensor& moment, const HessianFactor& factor,
                        const QuantScheme& scheme, const QuantizeOptions& options, const GptqOptions& gptq,
                        std::string_view name) {
  PARE_ASSERT(weight.dtype() == DType::f32 && weight.is_contiguous(), "[gptq] {}", name);
  PARE_ASSERT(!factor.failed, "[gptq] {}: the factorization failed", name);
  PARE_CHECK(check_scheme(scheme, name));
  PARE_CHECK(require_finite(weight, std::string(name), {}));
  const int64_t out = weight.size(0), in = weight.size(1);
  GroupGrids plain_grids(scheme, options, out, in);
  parallel_ranges(out, kRowsPerItem, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) plain_grids.fit_row(r, weight.data<float>() + r * in);
  });
  PARE_TRY(const double energy, output_energy(weight, moment));
  PARE_TRY(GptqOutput plain, rounded(weight, moment, energy, plain_grids, scheme, name));
  if (factor.all_dead) return plain;

  GroupGrids dynamic_grids(scheme, options, gptq.static_groups ? 0 : out, in);
  GroupGrids& grids = gptq.static_groups ? plain_grids : dynamic_grids;
  Sweep sweep(weight, factor, scheme, options, gptq, grids);
  PARE_CHECK(sweep.run());
  GptqOutput output;
  output.loss = sweep.loss();
  output.rtn_output_error = plain.output_error;
  PARE_TRY(output.result.tensor, QuantizedTensor::allocate(scheme, out, in));
  if (!gptq.static_groups && scheme.granularity == QuantScheme::Granularity::group) {
    bool is_natural = true;
    for (int64_t i = 0; i < in; ++i) is_natural = is_natural && factor.order[size_t(i)] == i;
    if (!is_natural) {
      PARE_TRY(output.result.tensor.group_index, Tensor::allocate(DType::i32, {in}));
      int32_t* index = output.result.tensor.group_index.mutable_data<int32_t>();
      for (int64_t i = 0; i < in; ++i) index[factor.order[size_t(i)]] = int32_t(i / grids.width());
    }
  }
  PARE_CHECK(grids.finish(output.result, name));
  Tensor restored;
  PARE_CHECK(assemble(weight, grids, sweep.codes(), output.result, restored));
  PARE_TRY(output.output_error, share_of(energy, weight, restored, moment));
  if (gptq.keep_better && output.output_error > plain.output_error) {
    plain.loss = output.loss;
    plain.kept_rtn = true;
    return plain;
  }
  return output;
}

}  // namespace pare
