#include "formats/pare_tensor_record.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "engine/core/limits.h"
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

// Scheme, pattern and what belongs to them.
void add_content(const PareContent& content, Json& json) {
  if (content.pattern) {
    json["pattern"] = content.pattern->text();
    json["kept"] = Json(content.kept);
  }
  if (content.scheme) json["scheme"] = content.scheme->to_json();
  if (content.activation) json["activation"] = content.activation->to_json();
}

Status read_content(const MemberReader& reader, PareContent& content) {
  if (content.form == PareForm::sparse) {
    PARE_TRY(const std::string text, reader.text("pattern"));
    auto pattern = SparsityPattern::parse(text);
    if (!pattern) return reader.error("PK11", "pattern", "not a pattern", quote(text));
    content.pattern = *pattern;
    PARE_TRY(const uint64_t kept, reader.size("kept"));
    content.kept = static_cast<int64_t>(std::min<uint64_t>(kept, INT64_MAX));
  }
  const bool may_have_codes = content.form == PareForm::sparse && reader.object.find("scheme") != nullptr;
  if (content.form == PareForm::quantized || may_have_codes) {
    PARE_TRY(const Json* scheme, reader.object_member("scheme"));
    PARE_TRY(content.scheme, QuantScheme::from_json(*scheme, reader.path, reader.where));
  }
  if (const Json* activation = reader.object.find("activation"); activation != nullptr) {
    if (!content.scheme)
      return reader.error("PK09", "activation", "given for a tensor that is not quantized");
    PARE_TRY(content.activation,
             ActivationQuant::from_json(*activation, reader.path, reader.where + ".activation"));
  }
  return {};
}

Result<PareContent> read_base(const MemberReader& reader) {
  PARE_TRY(const Json* object, reader.object_member("base"));
  const MemberReader base{*object, reader.path, reader.where + ".base"};
  PareContent content;
  PARE_TRY(content.form, parse_form(base));
  if (content.form == PareForm::low_rank || content.form == PareForm::alias) {
    return base.error("PK11", "form", "cannot be the base of a product", std::string(form_name(content.form)),
                      "dense, quantized or sparse");
  }
  PARE_CHECK(read_content(base, content));
  return content;
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
  if (tensor.form != PareForm::dense && tensor.form != PareForm::alias)
    json["transposed"] = tensor.transposed;
  add_content(tensor, json);
  if (tensor.base) {
    Json base = Json::object();
    base["form"] = form_name(tensor.base->form);
    add_content(*tensor.base, base);
    json["base"] = std::move(base);
  }
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
  if (tensor.form != PareForm::dense && tensor.form != PareForm::alias) {
    PARE_TRY(tensor.transposed, reader.flag("transposed"));
  }
  PARE_CHECK(read_content(reader, tensor));
  if (tensor.form == PareForm::low_rank && json.find("base") != nullptr) {
    PARE_TRY(tensor.base, read_base(reader));
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

}  // namespace pare
