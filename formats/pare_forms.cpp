#include "formats/pare_forms.h"

#include "engine/core/assert.h"

namespace pare {
namespace {

using View = std::function<Tensor(const ParePart&)>;

void add(const std::string& role, const Tensor& part, std::vector<NamedPart>& parts) {
  if (part.defined()) parts.emplace_back(role, part);
}

void describe(const QuantizedTensor& source, const std::string& prefix, PareContent& content,
              std::vector<NamedPart>& parts) {
  content.form = PareForm::quantized;
  content.scheme = source.scheme;
  content.activation = source.activation;
  add(prefix + "codes", source.codes, parts);
  add(prefix + "scales", source.scales, parts);
  add(prefix + "zero_points", source.zero_points, parts);
  add(prefix + "minimums", source.minimums, parts);
  add(prefix + "group_index", source.group_index, parts);
  add(prefix + "codebook", source.codebook, parts);
}

void describe(const SparseTensor& source, const std::string& prefix, PareContent& content,
              std::vector<NamedPart>& parts) {
  content.form = PareForm::sparse;
  content.pattern = source.pattern;
  content.kept = source.kept_count();
  content.scheme = source.scheme;
  content.activation = source.activation;
  add(prefix + "mask", source.mask, parts);
  add(prefix + "indices", source.indices, parts);
  add(prefix + "row_pointers", source.row_pointers, parts);
  add(prefix + "values", source.values, parts);
  add(prefix + "codes", source.codes, parts);
  add(prefix + "scales", source.scales, parts);
  add(prefix + "zero_points", source.zero_points, parts);
  add(prefix + "minimums", source.minimums, parts);
  add(prefix + "codebook", source.codebook, parts);
}

// The view of a part, or an undefined tensor.
Tensor found(const PareTensor& tensor, const std::string& role, const View& view) {
  const ParePart* part = tensor.part(role);
  return part == nullptr ? Tensor() : view(*part);
}

std::shared_ptr<const QuantizedTensor> quantized_of(const PareTensor& tensor, const PareContent& content,
                                                    const std::string& prefix, const View& view) {
  auto result = std::make_shared<QuantizedTensor>();
  result->scheme = *content.scheme;
  result->shape = tensor.shape;
  result->activation = content.activation;
  result->codes = found(tensor, prefix + "codes", view);
  result->scales = found(tensor, prefix + "scales", view);
  result->zero_points = found(tensor, prefix + "zero_points", view);
  result->minimums = found(tensor, prefix + "minimums", view);
  result->group_index = found(tensor, prefix + "group_index", view);
  result->codebook = found(tensor, prefix + "codebook", view);
  return result;
}

std::shared_ptr<const SparseTensor> sparse_of(const PareTensor& tensor, const PareContent& content,
                                              const std::string& prefix, const View& view) {
  auto result = std::make_shared<SparseTensor>();
  result->pattern = *content.pattern;
  result->shape = tensor.shape;
  result->scheme = content.scheme;
  result->activation = content.activation;
  result->mask = found(tensor, prefix + "mask", view);
  result->indices = found(tensor, prefix + "indices", view);
  result->row_pointers = found(tensor, prefix + "row_pointers", view);
  result->values = found(tensor, prefix + "values", view);
  result->codes = found(tensor, prefix + "codes", view);
  result->scales = found(tensor, prefix + "scales", view);
  result->zero_points = found(tensor, prefix + "zero_points", view);
  result->minimums = found(tensor, prefix + "minimums", view);
  result->codebook = found(tensor, prefix + "codebook", view);
  return result;
}

std::shared_ptr<const LowRankTensor> low_rank_of(const PareTensor& tensor, const View& view) {
  auto result = std::make_shared<LowRankTensor>();
  result->shape = tensor.shape;
  result->left = found(tensor, "left", view);
  result->right = found(tensor, "right", view);
  if (!tensor.base) return result;
  const std::string prefix = "base.";
  if (tensor.base->form == PareForm::quantized) {
    result->base = quantized_of(tensor, *tensor.base, prefix, view);
  } else if (tensor.base->form == PareForm::sparse) {
    result->base = sparse_of(tensor, *tensor.base, prefix, view);
  } else {
    result->base = found(tensor, prefix + "values", view);
  }
  return result;
}

void list_content(const PareTensor& tensor, const PareContent& content, const std::string& prefix,
                  StoredTensor& listed) {
  listed.scheme = content.scheme;
  listed.activation = content.activation;
  if (content.pattern) {
    listed.pattern = content.pattern->text();
    listed.kept = content.kept;
  }
  const ParePart* values = tensor.part(prefix + "values");
  listed.dtype = content.scheme      ? content.scheme->scale_dtype
                 : values == nullptr ? DType::f32
                                     : values->dtype;
}

}  // namespace

std::vector<NamedPart> parts_of(const WeightData& weight, PareTensor& tensor) {
  std::vector<NamedPart> parts;
  if (weight.is_dense()) {
    tensor.form = PareForm::dense;
    tensor.shape = weight.dense().shape();
    add("values", weight.dense(), parts);
    return parts;
  }
  tensor.transposed = weight.transposed;
  if (weight.is_quantized()) {
    tensor.shape = weight.quantized()->shape;
    describe(*weight.quantized(), "", tensor, parts);
  } else if (weight.is_sparse()) {
    tensor.shape = weight.sparse()->shape;
    describe(*weight.sparse(), "", tensor, parts);
  } else {
    const LowRankTensor& product = *weight.low_rank();
    tensor.form = PareForm::low_rank;
    tensor.shape = product.shape;
    add("left", product.left, parts);
    add("right", product.right, parts);
    if (product.has_base()) tensor.base.emplace();
    if (const Tensor* dense = product.dense_base()) add("base.values", *dense, parts);
    if (const QuantizedTensor* codes = product.quantized_base())
      describe(*codes, "base.", *tensor.base, parts);
    if (const SparseTensor* sparse = product.sparse_base()) describe(*sparse, "base.", *tensor.base, parts);
  }
  return parts;
}

WeightData weight_of(const PareTensor& tensor, const View& view) {
  switch (tensor.form) {
    case PareForm::dense:
      return WeightData{view(tensor.parts[0]), false};
    case PareForm::quantized:
      return WeightData{quantized_of(tensor, tensor, "", view), tensor.transposed};
    case PareForm::sparse:
      return WeightData{sparse_of(tensor, tensor, "", view), tensor.transposed};
    case PareForm::low_rank:
      return WeightData{low_rank_of(tensor, view), tensor.transposed};
    case PareForm::alias:
      break;
  }
  PARE_ASSERT(false, "[pare] load of the alias {}", tensor.name);
  return {};
}

StoredTensor listed_tensor(const PareTensor& tensor) {
  StoredTensor listed;
  listed.name = tensor.name;
  listed.shape = tensor.shape;
  listed.transposed = tensor.transposed;
  for (const ParePart& part : tensor.parts) listed.bytes += part.bytes;
  if (tensor.form != PareForm::low_rank) {
    list_content(tensor, tensor, "", listed);
    return listed;
  }
  if (tensor.base) {
    list_content(tensor, *tensor.base, "base.", listed);
    listed.base_dtype = listed.dtype;
  }
  const ParePart& left = *tensor.part("left");
  listed.dtype = left.dtype;
  listed.rank = left.shape[1];
  return listed;
}

}  // namespace pare
