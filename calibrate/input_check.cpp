#include "calibrate/input_check.h"

#include "engine/core/text.h"

namespace pare {

bool can_be_quantized(const StoredTensor& stored) {
  return stored.is_dense() || (stored.is_sparse() && !stored.scheme);
}

Error already_quantized(const WeightSource& source, const StoredTensor& stored) {
  return Error{.exit = Exit::unsupported,
               .rule = "CF12",
               .path = source.path(),
               .where = quote(stored.name),
               .what = stored.scheme
                           ? "already quantized; export to dense weights first, or exclude it"
                           : "stored as two factors, which would be lost; export to dense weights first, "
                             "or exclude it",
               .got = stored.form_text(),
               .limit = {}};
}

Status check_inputs(const WeightSource& source, const ModelDescription& model,
                    const std::vector<std::optional<QuantScheme>>& schemes) {
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    const StoredTensor* stored = source.find(model.tensors[i].name);
    if (stored == nullptr || can_be_quantized(*stored)) continue;
    if (i < schemes.size() && schemes[i]) return already_quantized(source, *stored);
  }
  for (const TensorSpec& spec : model.tensors) {
    const StoredTensor* stored = source.find(spec.name);
    if (stored == nullptr || stored->scheme) continue;
    PARE_TRY(const WeightData data, source.load(spec.name));
    PARE_CHECK(data.validate(source.path(), spec.name));
    source.release(spec.name);
  }
  return {};
}

}  // namespace pare
