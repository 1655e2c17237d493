#include "cli/sparse_choice.h"

#include <memory>
#include <utility>

#include "engine/tensor/sparse_detect.h"

namespace pare::cli {

Result<SparseChoice> SparseChoice::parse(const std::string& text) {
  SparseChoice choice;
  choice.wanted_ = !text.empty() && text != "off";
  choice.expands_ = text == "off";
  if (!choice.wanted_ || text == "auto") return choice;
  auto pattern = SparsityPattern::parse(text);
  if (!pattern) {
    pattern.error().path = "--sparse";
    return pattern.error();
  }
  choice.pattern_ = *pattern;
  return choice;
}

// With its zeros; a new pattern is looked for in them as in those of any other.
Result<WeightData> SparseChoice::expanded(WeightData data, const TensorSpec& spec) const {
  if (!data.sparse()->has_codes()) {
    PARE_TRY(Tensor dense, data.to_dense_tensor());
    return WeightData{.form = std::move(dense)};
  }
  auto whole = data.sparse()->to_quantized({}, spec.name);
  if (!whole && expands_) return whole.error();
  if (whole) data.form = std::make_shared<const QuantizedTensor>(std::move(*whole));
  return data;
}

WeightData SparseChoice::found(WeightData data, std::optional<SparseTensor> sparse) {
  if (!sparse) return data;
  ++count_;
  data.form = std::make_shared<const SparseTensor>(std::move(*sparse));
  return data;
}

Result<WeightData> SparseChoice::apply(WeightData data, const TensorSpec& spec) {
  if (data.is_sparse() && (expands_ || wanted_)) {
    PARE_TRY(data, expanded(std::move(data), spec));
  }
  if (!wanted_ || !(spec.is_linear || spec.role == Role::lm_head)) return data;
  if (data.is_quantized()) {
    PARE_TRY(std::optional<SparseTensor> sparse, sparse_form_of(*data.quantized(), pattern_));
    return found(std::move(data), std::move(sparse));
  }
  if (!data.is_dense()) return data;
  Tensor matrix = data.dense();
  if (spec.transposed) {
    PARE_TRY(matrix, transposed(matrix));
  }
  PARE_TRY(std::optional<SparseTensor> sparse, sparse_form_of(matrix, pattern_));
  data.transposed = sparse.has_value() && spec.transposed;
  return found(std::move(data), std::move(sparse));
}

}  // namespace pare::cli
