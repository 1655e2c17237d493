#include "quantize/scale_losses.h"

#include <fmt/core.h>

#include <algorithm>

#include "calibrate/device_sweep.h"
#include "calibrate/output_error.h"
#include "engine/core/parallel.h"
#include "engine/tensor/scale_search.h"
#include "engine/tensor/statistics_backend.h"
#include "engine/tensor/tensor_scan.h"
#include "engine/tensor/transfer.h"
#include "quantize/gptq_device.h"

namespace pare {
namespace {

ScaleSearch& scale_search(Device device) {
  StatisticsBackend* statistics = backend_for(device).statistics();
  PARE_ASSERT(statistics != nullptr && statistics->scales() != nullptr, "[scale_losses] moment on {}",
              device.name());
  return *statistics->scales();
}

// What keeps the kernels from rounding to this scheme; null: nothing.
const char* reason_for_host(const QuantScheme& scheme, const QuantizeOptions& options) {
  if (scheme.kind != QuantScheme::Kind::integer) return "kernels round to integer codes only";
  if (scheme.granularity == QuantScheme::Granularity::tensor) return "kernels fit no range to a whole matrix";
  if (!rounds_on_device(scheme, options)) return "kernels search ranges by the squared error only";
  return nullptr;
}

Result<double> loss_on_host(const Tensor& weight, const QuantScheme& scheme, const float* scale,
                            const Tensor& moment, const QuantizeOptions& options, const QuantizeMethod& rtn,
                            std::string_view name) {
  const int64_t out = weight.size(0), in = weight.size(1);
  PARE_TRY(Tensor scaled, Tensor::allocate(DType::f32, {out, in}));
  const float* w = weight.data<float>();
  float* s = scaled.mutable_data<float>();
  parallel_ranges(out, 32, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t j = 0; j < in; ++j) s[r * in + j] = w[r * in + j] * scale[j];
  });
  // The input is divided by the scale, and so is its share in the search of ranges.
  QuantizeOptions scaled_options = options;
  std::vector<float> importance(options.importance.begin(), options.importance.end());
  for (size_t j = 0; j < importance.size(); ++j) importance[j] /= scale[j] * scale[j];
  scaled_options.importance = importance;
  scaled_options.clamp_scales = true;  // a candidate that does not fit only loses
  PARE_TRY(const QuantizeOutput rounded, rtn.quantize(scaled, scheme, scaled_options, name));
  parallel_ranges(out, 32, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = s + r * in;
      rounded.tensor.dequantize_rows(r, r + 1, row);
      for (int64_t j = 0; j < in; ++j) row[j] = w[r * in + j] - row[j] / scale[j];
    }
  });
  return output_energy(scaled, moment);
}

// Read only, on the device.
Result<Tensor> uploaded(std::span<const float> values, const Shape& shape, Device device) {
  return moved(Tensor::wrap(const_cast<float*>(values.data()), DType::f32, shape), device);
}

}  // namespace

Result<std::vector<double>> ScaleLosses::on_host(const Tensor& weight, const QuantScheme& scheme,
                                                 std::span<const float> scales, std::string_view name) {
  if (!host_moment_.defined()) {
    PARE_TRY(host_moment_, moved(moment_, Device::cpu()));
  }
  PARE_TRY(const QuantizeMethod* rtn, find_quantize_method("rtn"));
  const size_t in = size_t(weight.size(1));
  std::vector<double> losses;
  for (size_t first = 0; first < scales.size(); first += in) {
    PARE_TRY(const double loss,
             loss_on_host(weight, scheme, scales.data() + first, host_moment_, options_, *rtn, name));
    losses.push_back(loss);
  }
  return losses;
}

Result<std::vector<double>> ScaleLosses::on_device(const Tensor& weight, const QuantScheme& scheme,
                                                   std::span<const float> scales) {
  const Device device = moment_.device();
  ScaleSearch& search = scale_search(device);
  const int64_t out = weight.size(0), in = weight.size(1), candidates = int64_t(scales.size()) / in;
  const int64_t at_once = std::min(kScalesAtOnce, candidates);
  RangeSearch range{};
  Tensor importance;
  if (options_.clip_search) {
    range.steps = options_.clip.steps;
    range.grid = options_.clip.grid;
    if (!options_.importance.empty()) {
      PARE_TRY(importance, uploaded(options_.importance, {in}, device));
      range.importance = importance.data<float>();
    }
  }
  PARE_TRY(const Tensor there, moved(weight, device));
  PARE_TRY(const Tensor all_scales, uploaded(scales, {candidates, in}, device));
  PARE_TRY(const Tensor found, device_tensor(DType::f64, {candidates}, device));
  PARE_TRY(const Tensor workspace,
           device_tensor(DType::u8, {int64_t(search.workspace_bytes(out, in, at_once))}, device));
  search.losses({.weight = there.data<float>(),
                 .scales = all_scales.data<float>(),
                 .moment = moment_.data<float>(),
                 .losses = found.mutable_data<double>(),
                 .rows = out,
                 .columns = in,
                 .width = scheme.group_width(in),
                 .candidates = candidates,
                 .format = grid_format(scheme),
                 .search = range,
                 .at_once = at_once,
                 .workspace = workspace.mutable_raw()});
  PARE_TRY(const Tensor host, moved(found, Device::cpu()));
  std::vector<double> losses(host.data<double>(), host.data<double>() + candidates);
  for (double& loss : losses)
    if (loss < 0.0) loss = 0.0;  // H is positive semidefinite; rounding may say otherwise
  return losses;
}

Result<std::vector<double>> ScaleLosses::of(const Tensor& weight, const QuantScheme& scheme,
                                            std::span<const float> scales, std::string_view name) {
  PARE_ASSERT(weight.shape().rank() == 2 && !scales.empty() && int64_t(scales.size()) % weight.size(1) == 0,
              "[scale_losses] {} values of scales for {}", scales.size(), weight.shape().text());
  const Device device = moment_.device();
  if (device.is_host()) return on_host(weight, scheme, scales, name);
  const char* reason = reason_for_host(scheme, options_);
  if (reason == nullptr) {
    PARE_CHECK(require_finite(weight, std::string(name), {}));
    return on_device(weight, scheme, scales);
  }
  if (host_reason_.empty()) host_reason_ = fmt::format("{}: {}", scheme.text(), reason);
  return on_host(weight, scheme, scales, name);
}

}  // namespace pare
