#include "quantize/gptq.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "calibrate/output_error.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"
#include "engine/tensor/transfer.h"
#include "quantize/gptq_device.h"
#include "quantize/grid_rounder.h"
#include "quantize/matrix_codes.h"

namespace pare {
namespace {

constexpr int64_t kRowsPerItem = kLanes;

// Every weight is rounded; what `keep` leaves out stays zero.
class RoundingRule final : public ColumnRule {
 public:
  RoundingRule(GridRounder& rounder, const HessianFactor& factor, const Mask* keep)
      : rounder_(rounder), factor_(factor), keep_(keep) {}

  Status begin_block(const Tensor& work, int64_t, int64_t) override { return rounder_.begin_block(work); }
  void choose(const SweepTile& tile, int64_t position, float* chosen) override {
    if (keep_ == nullptr) return rounder_.round(tile, position, nullptr, chosen);
    uint8_t keep[kLanes] = {};
    for (int64_t lane = 0; lane < tile.rows; ++lane)
      keep[lane] = keep_->kept(tile.first + lane, factor_.order[size_t(position)]) ? 1 : 0;
    rounder_.round(tile, position, keep, chosen);
  }

 private:
  GridRounder& rounder_;
  const HessianFactor& factor_;
  const Mask* keep_;
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
  if (!moment.device().is_host()) {
    if (rounds_on_device(scheme, options))
      return gptq_on_device(weight, moment, factor, scheme, options, gptq, name);
    // Codes that are no integers are rounded on the host, with the numbers of the device.
    HessianFactor host_factor = factor;
    PARE_TRY(const Tensor host_moment, moved(moment, Device::cpu()));
    PARE_TRY(host_factor.upper, moved(factor.upper, Device::cpu()));
    return pare::gptq(weight, host_moment, host_factor, scheme, options, gptq, name);
  }
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
  GridRounder rounder(scheme, options, factor, grids,
                      gptq.static_groups ? GridRounder::When::fitted : GridRounder::When::ahead, gptq.level);
  PARE_CHECK(rounder.allocate(out, in));
  RoundingRule rule(rounder, factor, gptq.keep);
  GptqOutput output;
  PARE_TRY(output.loss, sweep_columns(weight, factor, {.block = gptq.block, .level = gptq.level}, rule));
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
  PARE_CHECK(assemble(weight, grids, rounder.codes(), output.result, restored));
  PARE_TRY(output.output_error, share_of(energy, weight, restored, moment));
  if (gptq.keep_better && output.output_error > plain.output_error) {
    plain.loss = output.loss;
    plain.kept_rtn = true;
    return plain;
  }
  return output;
}

}  // namespace pare
