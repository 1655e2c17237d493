#include "quantize/sparse_codes.h"

#include <algorithm>

#include "calibrate/held_zeros.h"
#include "engine/tensor/sparse_detect.h"
#include "quantize/row_quantizer.h"

namespace pare {

Status keep_sparse(const WeightSource& source, const TensorSpec& spec, WeightData& data,
                   TensorRecord& record) {
  const StoredTensor* stored = source.find(spec.name);
  if (!data.is_quantized() || stored == nullptr || !stored->is_sparse()) return {};
  PARE_TRY(const WeightData before, source.load(spec.name));
  PARE_TRY(const Mask kept, before.sparse()->kept());
  PARE_TRY(const bool holds, zeros_hold(*data.quantized(), kept));
  if (!holds) {
    record.extra["removed_weights_filled"] = true;
    return {};
  }
  PARE_TRY(std::optional<SparseTensor> sparse,
           smallest_form(*data.quantized(), kept, before.sparse()->pattern));
  if (!sparse) return {};
  record.kind = "sparse";
  record.bits_per_weight = sparse->bits_per_weight();
  record.extra["pattern"] = sparse->pattern.text();
  record.extra["sparsity"] = sparse->sparsity();
  data.form = std::make_shared<const SparseTensor>(std::move(*sparse));
  return {};
}

Result<std::optional<Mask>> zeros_to_hold(const Tensor& weight, const QuantScheme& scheme,
                                          std::string_view name) {
  PARE_TRY(std::optional<Mask> held, held_zeros(weight));
  if (held && scheme.offset == QuantScheme::Offset::minimum)
    return scheme_refused(
        scheme, name, "the weight is pruned and the scheme has no exact zero; -asym and symmetric ones have");
  return held;
}

uint64_t planned_codes_bytes(const StoredTensor& stored, const QuantScheme& scheme, const TensorSpec& spec) {
  const uint64_t whole = scheme.stored_bytes(spec.out(), spec.in());
  if (!stored.is_sparse() || !stored.kept) return whole;
  const auto pattern = SparsityPattern::parse(stored.pattern);
  if (!pattern) return whole;
  const uint64_t grids = whole - uint64_t(spec.out() * scheme.row_bytes(spec.in()));
  return std::min(whole,
                  grids + sparse_bytes(*pattern, spec.out(), spec.in(), *stored.kept, scheme.bits, true));
}

}  // namespace pare
