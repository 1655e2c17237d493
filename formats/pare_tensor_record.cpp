#include "formats/pare_tensor_record.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "engine/core/limits.h"
#include "engine/tensor/mask.h"
#include "formats/pare_directory.h"
#include "formats/pare_json.h"
#include "formats/tensor_name.h"

namespace pare {
namespace {

struct FormName {
  PareForm form;
  std::string_view name;
};
constexpr std::array<FormName, 5> kForms = {{{PareForm::dense, "dense"},
                                             {PareForm::quantized, "quantized"},
                                             {PareForm::sparse, "sparse"},
                                             {PareForm::low_rank, "low_rank"},
                                             {PareForm::alias, "alias"}}};

constexpr const char* kRecordSum = "xxh3";

Json shape_record(const Shape& shape) {
  Json json = Json::array();
  for (const int64_t extent : shape.sizes()) json.push_back(extent);
  return json;
}

Result<Shape> parse_shape(const MemberReader& reader) {
  PARE_TRY(const Json* array, reader.array("shape"));
  if (array->size() > limits::kRank) {
    return unsupported("PK28", reader.path, reader.where + ".shape", "rank is over the limit",
                       std::to_string(array->size()), std::to_string(limits::kRank), "limit");
  }
  std::vector<int64_t> extents;
  for (const Json& extent : array->items()) {
    const bool fits = extent.kind() == Json::Kind::integer && extent.as_int() >= 0 &&
                      static_cast<uint64_t>(extent.as_int()) < limits::kDimension;
    if (!fits)
      return reader.error("PK27", "shape", "not a size",
                          extent.is_number() ? extent.dump() : extent.kind_name());
    extents.push_back(extent.as_int());
  }
  if (!checked_elements(extents)) return reader.error("PK27", "shape", "product overflows", array->dump());
  return Shape(extents);
}

Result<Hash128> parse_sum(const MemberReader& reader) {
  PARE_TRY(const std::string text, reader.text(kRecordSum));
  const auto sum = Hash128::from_hex(text);
  if (!sum) return reader.error("PK30", kRecordSum, "not a checksum", quote(text), "32 hex digits");
  return *sum;
}

Result<PareForm> parse_form(const MemberReader& reader) {
  PARE_TRY(const std::string text, reader.text("form"));
  const auto found =
      std::find_if(kForms.begin(), kForms.end(), [&](const FormName& f) { return f.name == text; });
  if (found != kForms.end()) return found->form;
  return unsupported("PK20", reader.path, reader.where + ".form", "unknown to this version", quote(text));
}

// One part that a form needs.
struct Expected {
  const char* role;
  DType dtype;
  Shape shape;
};

std::string parts_text(const PareTensor& tensor) {
  std::string text;
  for (const ParePart& part : tensor.parts) text += (text.empty() ? "" : ", ") + part.role;
  return text.empty() ? "none" : quote(text);
}

Status check_expected(const PareTensor& tensor, const std::vector<Expected>& expected, const char* rule,
                      std::string_view path) {
  const std::string where = "tensor " + quote(tensor.name);
  std::string roles;
  for (const Expected& e : expected) roles += (roles.empty() ? "" : ", ") + std::string(e.role);
  if (tensor.parts.size() != expected.size()) {
    return malformed(rule, path, where + ".parts", "not the parts of this form", parts_text(tensor), roles);
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    const ParePart& part = tensor.parts[i];
    if (part.role != expected[i].role)
      return malformed(rule, path, where + ".parts", "not the parts of this form", parts_text(tensor), roles);
    if (part.dtype != expected[i].dtype || part.shape != expected[i].shape) {
      return malformed(rule, path, fmt::format("{}.{}", where, part.role),
                       "part does not fit shape and scheme",
                       fmt::format("{} {}", dtype_name(part.dtype), part.shape.text()),
                       fmt::format("{} {}", dtype_name(expected[i].dtype), expected[i].shape.text()));
    }
  }
  return {};
}

Status check_quantized(const PareTensor& tensor, std::string_view path) {
  if (tensor.shape.rank() != 2) {
    return malformed("PK28", path, "tensor " + quote(tensor.name) + ".shape",
                     "quantized tensor is not a matrix", tensor.shape.text());
  }
  using Offset = QuantScheme::Offset;
  const QuantScheme& scheme = *tensor.scheme;
  const int64_t out = tensor.shape[0], in = tensor.shape[1];
  const Shape per_group{scheme.granularity == QuantScheme::Granularity::tensor ? 1 : out, scheme.groups(in)};
  std::vector<Expected> expected = {{"codes", DType::u8, Shape{out, scheme.row_bytes(in)}},
                                    {"scales", scheme.scale_dtype, per_group}};
  if (scheme.offset == Offset::zero_point) expected.push_back({"zero_points", DType::u8, per_group});
  if (scheme.offset == Offset::minimum) expected.push_back({"minimums", scheme.scale_dtype, per_group});
  const bool has_index = tensor.part("group_index") != nullptr;
  if (has_index && scheme.granularity == QuantScheme::Granularity::group)
    expected.push_back({"group_index", DType::i32, Shape{in}});
  if (scheme.kind == QuantScheme::Kind::codebook && scheme.codebook == "custom") {
    expected.push_back({"codebook", DType::f32, Shape{scheme.code_count()}});
  }
  return check_expected(tensor, expected, "PK28", path);
}

// Compressed rows: where each row begins, the column of each kept weight, its value.
Status check_sparse(const PareTensor& tensor, std::string_view path) {
  const std::string where = "tensor " + quote(tensor.name);
  const ParePart* columns = tensor.part("columns");
  const ParePart* values = tensor.part("values");
  if (tensor.shape.rank() != 2 || columns == nullptr || values == nullptr || columns->shape.rank() != 1) {
    return malformed("PK11", path, where + ".parts", "not a sparse matrix", parts_text(tensor),
                     "row_pointers, columns, values");
  }
  if (!SparsityPattern::parse(tensor.pattern))
    return malformed("PK11", path, where + ".pattern", "not a pattern", quote(tensor.pattern));
  const int64_t kept = columns->shape[0];
  if (kept > tensor.shape.numel()) {
    return malformed("PK11", path, where + ".columns", "more kept weights than weights", std::to_string(kept),
                     std::to_string(tensor.shape.numel()));
  }
  return check_expected(tensor,
                        {{"row_pointers", DType::i64, Shape{tensor.shape[0] + 1}},
                         {"columns", DType::i32, Shape{kept}},
                         {"values", values->dtype, Shape{kept}}},
                        "PK11", path);
}

Status check_low_rank(const PareTensor& tensor, std::string_view path) {
  const ParePart* left = tensor.part("left");
  if (tensor.shape.rank() != 2 || left == nullptr || left->shape.rank() != 2 ||
      !is_weight_dtype(left->dtype)) {
    return malformed("PK11", path, "tensor " + quote(tensor.name) + ".parts", "not a product of two matrices",
                     parts_text(tensor), "left, right");
  }
  const int64_t rank = left->shape[1];
  return check_expected(tensor,
                        {{"left", left->dtype, Shape{tensor.shape[0], rank}},
                         {"right", left->dtype, Shape{rank, tensor.shape[1]}}},
                        "PK11", path);
}

}  // namespace

std::string_view form_name(PareForm form) {
  return std::find_if(kForms.begin(), kForms.end(), [&](const FormName& f) { return f.form == form; })->name;
}

Json part_record(const ParePart& part, bool is_tensor) {
  Json json = Json::object();
  if (is_tensor) {
    json["role"] = part.role;
    json["dtype"] = dtype_name(part.dtype);
    json["shape"] = shape_record(part.shape);
  }
  json["offset"] = part.offset;
  json["bytes"] = part.bytes;
  json[kRecordSum] = part.sum.hex();
  return json;
}

Result<ParePart> parse_part(const Json& json, std::string_view path, const std::string& where,
                            bool is_tensor) {
  const MemberReader reader{json, path, where};
  ParePart part;
  PARE_TRY(part.offset, reader.size("offset"));
  PARE_TRY(part.bytes, reader.size("bytes"));
  PARE_TRY(part.sum, parse_sum(reader));
  if (!is_tensor) return part;
  PARE_TRY(part.role, reader.text("role"));
  PARE_TRY(const std::string dtype, reader.text("dtype"));
  const auto known = dtype_from_name(dtype);
  if (!known) return unsupported("PK20", path, where + ".dtype", "unknown to this version", quote(dtype));
  part.dtype = *known;
  PARE_TRY(part.shape, parse_shape(reader));
  const auto bits = checked_bits(static_cast<uint64_t>(part.shape.numel()), part.dtype);
  if (!bits) return reader.error("PK27", "shape", "size overflows", part.shape.text());
  const uint64_t need = Checked(*bits).divided_up(8).value();
  if (*bits % 8 != 0 || need != part.bytes) {
    return reader.error("PK28", "bytes", "stored length differs from what shape and dtype need",
                        std::to_string(part.bytes), std::to_string(need));
  }
  return part;
}

Json tensor_record(const PareTensor& tensor) {
  Json json = Json::object();
  json["name"] = tensor.name;
  json["form"] = form_name(tensor.form);
  json["shape"] = shape_record(tensor.shape);
  if (tensor.form == PareForm::quantized) {
    json["transposed"] = tensor.transposed;
    json["scheme"] = tensor.scheme->to_json();
    if (tensor.activation) json["activation"] = tensor.activation->to_json();
  }
  if (tensor.form == PareForm::sparse) json["pattern"] = tensor.pattern;
  if (tensor.form == PareForm::alias) json["target"] = tensor.target;
  Json parts = Json::array();
  for (const ParePart& part : tensor.parts) parts.push_back(part_record(part, true));
  json["parts"] = std::move(parts);
  json[kRecordSum] = record_sum(json).hex();
  return json;
}

Hash128 record_sum(const Json& record) {
  Json bare = record;
  bare.erase(kRecordSum);
  return xxh3_128(std::string_view(bare.dump_sorted()));
}

Result<PareTensor> parse_tensor_record(const Json& json, std::string_view path, size_t index) {
  const std::string place = fmt::format("tensors[{}]", index);
  if (!json.is_object()) return malformed("PK30", path, place, "not an object", json.kind_name());
  PareTensor tensor;
  PARE_TRY(tensor.name, (MemberReader{json, path, place}.text("name")));
  if (const std::string_view what = fault_of_tensor_name(tensor.name); !what.empty()) {
    return malformed("PK34", path, fmt::format("{} {}", place, quote(tensor.name)), std::string(what));
  }
  const MemberReader reader{json, path, "tensor " + quote(tensor.name)};
  PARE_TRY(const Hash128 sum, parse_sum(reader));
  if (const Hash128 found = record_sum(json); found != sum) {
    return malformed("PK06", path, reader.where, "checksum mismatch of the record", found.hex(), sum.hex());
  }
  PARE_TRY(tensor.form, parse_form(reader));
  PARE_TRY(tensor.shape, parse_shape(reader));
  if (tensor.form == PareForm::quantized) {
    PARE_TRY(tensor.transposed, reader.flag("transposed"));
    PARE_TRY(const Json* scheme, reader.object_member("scheme"));
    PARE_TRY(tensor.scheme, QuantScheme::from_json(*scheme, path, reader.where));
  }
  if (const Json* activation = json.find("activation"); activation != nullptr) {
    if (tensor.form != PareForm::quantized)
      return reader.error("PK09", "activation", "given for a tensor that is not quantized");
    PARE_TRY(tensor.activation, ActivationQuant::from_json(*activation, path, reader.where + ".activation"));
  }
  if (tensor.form == PareForm::sparse) {
    PARE_TRY(tensor.pattern, reader.text("pattern"));
  }
  if (tensor.form == PareForm::alias) {
    PARE_TRY(tensor.target, reader.text("target"));
  }
  PARE_TRY(const Json* parts, reader.array("parts"));
  for (size_t i = 0; i < parts->size(); ++i) {
    PARE_TRY(ParePart part,
             parse_part((*parts)[i], path, fmt::format("{}.parts[{}]", reader.where, i), true));
    tensor.parts.push_back(std::move(part));
  }
  return tensor;
}

Status check_parts(const PareTensor& tensor, std::string_view path) {
  switch (tensor.form) {
    case PareForm::dense: {
      const DType dtype = tensor.parts.empty() ? DType::u8 : tensor.parts[0].dtype;
      return check_expected(tensor, {{"values", dtype, tensor.shape}}, "PK28", path);
    }
    case PareForm::quantized:
      return check_quantized(tensor, path);
    case PareForm::sparse:
      return check_sparse(tensor, path);
    case PareForm::low_rank:
      return check_low_rank(tensor, path);
    case PareForm::alias:
      return check_expected(tensor, {}, "PK29", path);
  }
  return {};
}

}  // namespace pare
