#include "quantize/round_to_nearest.h"

#include <string>

#include "engine/tensor/tensor_scan.h"
#include "quantize/row_quantizer.h"

namespace pare {
namespace {

// What this method cannot do with a scheme; never done in another way.
Status check_scheme(const QuantScheme& scheme, const QuantizeOptions& options, std::string_view name) {
  if (scheme.kind == QuantScheme::Kind::codebook && scheme.codebook != "nf4")
    return scheme_refused(scheme, name,
                          "a codebook of its own is fitted by the method kmeans; nf4 has a fixed one");
  if (scheme.granularity == QuantScheme::Granularity::tensor && options.clip_search)
    return scheme_refused(
        scheme, name, "range search needs a scale per channel or group; leave out --clip for this scheme");
  return {};
}

}  // namespace

Result<QuantizeOutput> round_to_nearest(const Tensor& weight, const QuantScheme& scheme,
                                        const QuantizeOptions& options, std::string_view name) {
  PARE_ASSERT(weight.shape().rank() == 2, "[rtn] {} has shape {}", name, weight.shape().text());
  PARE_CHECK(check_scheme(scheme, options, name));
  PARE_CHECK(require_finite(weight, std::string(name), {}));
  RowMethod method;
  method.fit = [&](std::span<const float> group, std::span<const float> importance) {
    return options.clip_search ? fit_clipped(scheme, group, options.clip, importance)
                               : fit_min_max(scheme, group);
  };
  if (scheme.granularity == QuantScheme::Granularity::tensor && weight.numel() > 0)
    method.tensor_grid = fit_tensor(weight, scheme);
  return quantize_rows(weight, scheme, options, name, method);
}

}  // namespace pare
