#include "quantize/gptq_device.h"

#include <cmath>
#include <utility>
#include <vector>

#include "calibrate/device_sweep.h"
#include "engine/core/parallel.h"
#include "engine/tensor/transfer.h"
#include "quantize/grid_rounder.h"
#include "quantize/matrix_codes.h"

namespace pare {
namespace {

ScaleFault fault_of(uint8_t fault) {
  switch (GridFault(fault)) {
    case GridFault::raised:
      return ScaleFault::raised;
    case GridFault::too_small:
      return ScaleFault::too_small;
    case GridFault::too_large:
      return ScaleFault::too_large;
    default:
      return ScaleFault::none;
  }
}

// One matrix on its way through the device.
class DeviceGptq {
 public:
  DeviceGptq(const Tensor& moment, const HessianFactor& factor, const QuantScheme& scheme,
             const QuantizeOptions& options, std::string_view name)
      : moment_(moment), factor_(factor), scheme_(scheme), options_(options), name_(name) {}

  Status start(const Tensor& weight) {
    PARE_TRY(weight_, moved(weight, moment_.device()));
    if (options_.clip_search) {
      search_.steps = options_.clip.steps;
      search_.grid = options_.clip.grid;
      if (!options_.importance.empty()) {
        // Read only.
        const Tensor host = Tensor::wrap(const_cast<float*>(options_.importance.data()), DType::f32,
                                         {int64_t(options_.importance.size())});
        PARE_TRY(importance_, moved(host, moment_.device()));
        search_.importance = importance_.data<float>();
      }
    }
    PARE_TRY(grids_, DeviceGrids::allocate(moment_.device(), grid_format(scheme_), out(), in(),
                                           scheme_.group_width(in())));
    solver().fit_grids({.values = weight_.data<float>(),
                        .rows = out(),
                        .columns = in(),
                        .stride = in(),
                        .width = grids_.width,
                        .format = grids_.format,
                        .search = search_,
                        .grids = grids_.arrays()});
    PARE_TRY(energy_, device_energy(weight_, Tensor(), moment_));
    return {};
  }

  // Plain rounding to the fitted grids.
  Result<GptqOutput> rounded() {
    PARE_TRY(const Tensor codes, device_tensor(DType::u8, weight_.shape(), moment_.device()));
    PARE_TRY(const Tensor restored, device_tensor(DType::f32, weight_.shape(), moment_.device()));
    solver().round_to_grids({.values = weight_.data<float>(),
                             .codes = codes.mutable_data<uint8_t>(),
                             .restored = restored.mutable_data<float>(),
                             .rows = out(),
                             .columns = in(),
                             .stride = in(),
                             .width = grids_.width,
                             .format = grids_.format,
                             .grids = grids_.arrays()});
    PARE_TRY(GptqOutput output, output_of(grids_, codes, restored));
    output.rtn_output_error = output.output_error;
    return output;
  }

  Result<GptqOutput> swept(const GptqOptions& gptq) {
    DeviceGrids ahead;
    if (!gptq.static_groups) {
      PARE_TRY(ahead, DeviceGrids::allocate(moment_.device(), grids_.format, out(), in(), grids_.width));
    }
    DeviceSweepRule rule{.block = gptq.block,
                         .grids = gptq.static_groups ? &grids_ : &ahead,
                         .fit_ahead = !gptq.static_groups,
                         .search = search_,
                         .keep = {},
                         .removed = {}};
    if (gptq.keep != nullptr) {
      PARE_TRY(rule.keep, device_marks(*gptq.keep, factor_, moment_.device()));
    }
    PARE_TRY(const DeviceSweepOutput swept, sweep_on_device(weight_, factor_, rule));
    PARE_TRY(GptqOutput output, output_of(*rule.grids, swept.codes, swept.values));
    output.loss = swept.loss;
    if (!gptq.static_groups) PARE_CHECK(add_group_index(output.result.tensor));
    return output;
  }

 private:
  int64_t out() const { return weight_.size(0); }
  int64_t in() const { return weight_.size(1); }
  ColumnSolver& solver() const { return *column_solver(moment_.device()); }

  // Codes and grids as they are stored, and how far `restored` is from the weight.
  Result<GptqOutput> output_of(const DeviceGrids& grids, const Tensor& codes, const Tensor& restored) {
    GptqOutput output;
    PARE_TRY(const MatrixErrors errors, device_errors(weight_, restored));
    output.result.max_error = errors.largest;
    output.result.relative_error = errors.size > 0.0 ? std::sqrt(errors.squared / errors.size) : 0.0;
    PARE_TRY(const double error, device_energy(weight_, restored, moment_));
    output.output_error = energy_ > 0.0 ? std::sqrt(error / energy_) : 0.0;

    PARE_TRY(output.result.tensor, QuantizedTensor::allocate(scheme_, out(), in()));
    GroupGrids stored(scheme_, options_, out(), in());
    PARE_CHECK(download(grids, stored));
    PARE_CHECK(stored.finish(output.result, name_));
    PARE_TRY(const Tensor host_codes, moved(codes, Device::cpu()));
    parallel_ranges(out(), kLanes, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        for (int64_t g = 0; g < stored.groups(); ++g)
          store_grid(output.result.tensor, r * stored.groups() + g, stored.grid(r, g));
        store_codes(output.result.tensor, r, host_codes.data<uint8_t>() + r * in());
      }
    });
    return output;
  }

  Status download(const DeviceGrids& grids, GroupGrids& stored) const {
    PARE_TRY(const Tensor scales, moved(grids.scales, Device::cpu()));
    PARE_TRY(const Tensor zeros, moved(grids.zeros, Device::cpu()));
    PARE_TRY(const Tensor minimums, moved(grids.minimums, Device::cpu()));
    PARE_TRY(const Tensor faults, moved(grids.faults, Device::cpu()));
    PARE_TRY(const Tensor clipped, moved(grids.clipped, Device::cpu()));
    for (int64_t r = 0; r < out(); ++r)
      for (int64_t g = 0; g < stored.groups(); ++g) {
        const int64_t i = r * stored.groups() + g;
        const Grid grid{.scale = scales.data<float>()[i],
                        .zero_point = int(zeros.data<float>()[i]),
                        .minimum = minimums.data<float>()[i]};
        stored.set(r, g, {grid, fault_of(faults.data<uint8_t>()[i])},
                   options_.clip_search ? clipped.data<int32_t>()[i] : 0);
      }
    return {};
  }

  Status add_group_index(QuantizedTensor& tensor) const {
    if (scheme_.granularity != QuantScheme::Granularity::group) return {};
    bool is_natural = true;
    for (int64_t i = 0; i < in(); ++i) is_natural = is_natural && factor_.order[size_t(i)] == i;
    if (is_natural) return {};
    PARE_TRY(tensor.group_index, Tensor::allocate(DType::i32, {in()}));
    int32_t* index = tensor.group_index.mutable_data<int32_t>();
    for (int64_t i = 0; i < in(); ++i) index[factor_.order[size_t(i)]] = int32_t(i / grids_.width);
    return {};
  }

  const Tensor& moment_;
  const HessianFactor& factor_;
  const QuantScheme& scheme_;
  const QuantizeOptions& options_;
  std::string_view name_;
  Tensor weight_, importance_;
  DeviceGrids grids_;
  RangeSearch search_{};
  double energy_ = 0.0;
};

}  // namespace

GridFormat grid_format(const QuantScheme& scheme) {
  return {.code_count = scheme.code_count(),
          .is_symmetric = scheme.is_symmetric(),
          .is_narrow = scheme.range == QuantScheme::Range::narrow,
          .has_minimum = scheme.offset == QuantScheme::Offset::minimum,
          .scale_dtype = scheme.scale_dtype};
}

bool rounds_on_device(const QuantScheme& scheme, const QuantizeOptions& options) {
  return scheme.kind == QuantScheme::Kind::integer && scheme.bits <= 8 &&
         (!options.clip_search || options.clip.power == 2.0);
}

Result<GptqOutput> gptq_on_device(const Tensor& weight, const Tensor& moment, const HessianFactor& factor,
                                  const QuantScheme& scheme, const QuantizeOptions& options,
                                  const GptqOptions& gptq, std::string_view name) {
  DeviceGptq matrix(moment, factor, scheme, options, name);
  PARE_CHECK(matrix.start(weight));
  PARE_TRY(GptqOutput plain, matrix.rounded());
  if (factor.all_dead) return plain;
  PARE_TRY(GptqOutput output, matrix.swept(gptq));
  output.rtn_output_error = plain.output_error;
  if (gptq.keep_better && output.output_error > plain.output_error) {
    plain.loss = output.loss;
    plain.kept_rtn = true;
    return plain;
  }
  return output;
}

}  // namespace pare
