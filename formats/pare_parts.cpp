// check_parts(): the parts that a form needs, from its description alone; see pare_tensor_record.h.
#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <vector>

#include "engine/core/text.h"
#include "engine/tensor/sparse_tensor.h"
#include "formats/fault.h"
#include "formats/pare_tensor_record.h"

namespace pare {
namespace {

// One part that a form needs.
struct Expected {
  std::string role;
  DType dtype;
  Shape shape;
};

std::string parts_text(const PareTensor& tensor) {
  std::string text;
  for (const ParePart& part : tensor.parts) text += (text.empty() ? "" : ", ") + part.role;
  return text.empty() ? "none" : quote(text);
}

std::string where_of(const PareTensor& tensor, std::string_view member) {
  return fmt::format("tensor {}.{}", quote(tensor.name), member);
}

Status check_expected(const PareTensor& tensor, const std::vector<Expected>& expected, const char* rule,
                      std::string_view path) {
  std::string roles;
  for (const Expected& e : expected) roles += (roles.empty() ? "" : ", ") + e.role;
  bool are_those = tensor.parts.size() == expected.size();
  for (size_t i = 0; are_those && i < expected.size(); ++i)
    are_those = tensor.parts[i].role == expected[i].role;
  if (!are_those)
    return malformed(rule, path, where_of(tensor, "parts"), "not the parts of this form", parts_text(tensor),
                     roles);
  for (size_t i = 0; i < expected.size(); ++i) {
    const ParePart& part = tensor.parts[i];
    if (part.dtype == expected[i].dtype && part.shape == expected[i].shape) continue;
    return malformed(rule, path, where_of(tensor, part.role), "part does not fit shape and scheme",
                     fmt::format("{} {}", dtype_name(part.dtype), part.shape.text()),
                     fmt::format("{} {}", dtype_name(expected[i].dtype), expected[i].shape.text()));
  }
  return {};
}

// Scales and what else the grids of a scheme need.
void add_grids(const QuantScheme& scheme, int64_t out, int64_t in, const std::string& prefix,
               std::vector<Expected>& expected) {
  using Offset = QuantScheme::Offset;
  const Shape per_group{scheme.granularity == QuantScheme::Granularity::tensor ? 1 : out, scheme.groups(in)};
  expected.push_back({prefix + "scales", scheme.scale_dtype, per_group});
  if (scheme.offset == Offset::zero_point) expected.push_back({prefix + "zero_points", DType::u8, per_group});
  if (scheme.offset == Offset::minimum)
    expected.push_back({prefix + "minimums", scheme.scale_dtype, per_group});
}

void add_codebook(const QuantScheme& scheme, const std::string& prefix, std::vector<Expected>& expected) {
  if (scheme.kind == QuantScheme::Kind::codebook && scheme.codebook == "custom")
    expected.push_back({prefix + "codebook", DType::f32, Shape{scheme.code_count()}});
}

void add_quantized(const PareTensor& tensor, const QuantScheme& scheme, const std::string& prefix,
                   std::vector<Expected>& expected) {
  const int64_t out = tensor.shape[0], in = tensor.shape[1];
  expected.push_back({prefix + "codes", DType::u8, Shape{out, scheme.row_bytes(in)}});
  add_grids(scheme, out, in, prefix, expected);
  if (tensor.part(prefix + "group_index") != nullptr && scheme.granularity == QuantScheme::Granularity::group)
    expected.push_back({prefix + "group_index", DType::i32, Shape{in}});
  add_codebook(scheme, prefix, expected);
}

// How many slots values or codes have: told by the pattern, or by the part itself as far as `kept` allows it.
Result<int64_t> slots_of(const PareTensor& tensor, const PareContent& content, const std::string& prefix,
                         std::string_view path) {
  const int64_t out = tensor.shape[0], in = tensor.shape[1], kept = content.kept;
  const auto wrong = [&](std::string_view member, const char* what, int64_t got, int64_t expected) {
    return malformed("PK11", path, where_of(tensor, prefix + std::string(member)), what, std::to_string(got),
                     std::to_string(expected));
  };
  if (kept > tensor.shape.numel())
    return wrong("kept", "more kept weights than weights", kept, tensor.shape.numel());
  if (content.pattern->kind == SparsityPattern::Kind::n_of_m) {
    const int64_t per_row = kept_per_row(*content.pattern, in);
    if (kept != out * per_row) return wrong("kept", "not what the pattern keeps", kept, out * per_row);
    return out * (content.scheme ? (per_row + 7) / 8 * 8 : per_row);
  }
  if (!content.scheme) return kept;
  const ParePart* codes = tensor.part(prefix + "codes");
  const int64_t bytes = codes != nullptr && codes->shape.rank() == 1 ? codes->shape[0] : 0;
  const int64_t bits = content.scheme->bits, slots = bytes / bits * 8;
  if (bytes % bits != 0) return wrong("codes", "not whole groups of eight codes", bytes, slots / 8 * bits);
  const int64_t height =
      content.pattern->kind == SparsityPattern::Kind::block ? content.pattern->block_rows : 1;
  const int64_t padding = 7 * ((out + height - 1) / height);
  if (slots < kept || slots - kept > padding)
    return wrong("codes", "not as many codes as weights are kept", slots, kept);
  return slots;
}

Status add_sparse(const PareTensor& tensor, const PareContent& content, const std::string& prefix,
                  std::string_view path, std::vector<Expected>& expected) {
  const SparsityPattern& pattern = *content.pattern;
  const int64_t out = tensor.shape[0], in = tensor.shape[1];
  PARE_TRY(const int64_t slots, slots_of(tensor, content, prefix, path));
  if (pattern.kind == SparsityPattern::Kind::n_of_m) {
    const int64_t bits = kept_per_row(pattern, in) * index_bits(pattern.m);
    expected.push_back({prefix + "indices", DType::u8, Shape{out, (bits + 7) / 8}});
  } else {
    const bool is_block = pattern.kind == SparsityPattern::Kind::block;
    const int64_t height = is_block ? pattern.block_rows : 1, width = is_block ? pattern.block_columns : 1;
    const int64_t rows = (out + height - 1) / height, units = (in + width - 1) / width;
    expected.push_back({prefix + "mask", DType::u8, Shape{rows, (units + 7) / 8}});
    expected.push_back({prefix + "row_pointers", DType::i64, Shape{rows + 1}});
  }
  if (content.scheme) {
    expected.push_back({prefix + "codes", DType::u8, Shape{slots / 8 * content.scheme->bits}});
    add_grids(*content.scheme, out, in, prefix, expected);
    add_codebook(*content.scheme, prefix, expected);
    return {};
  }
  const ParePart* values = tensor.part(prefix + "values");
  const DType dtype = values == nullptr ? DType::bf16 : values->dtype;
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) {
    return malformed("PK11", path, where_of(tensor, prefix + "values"), "type without a sparse form",
                     std::string(dtype_name(dtype)), "F32, BF16 or F16");
  }
  expected.push_back({prefix + "values", dtype, Shape{slots}});
  return {};
}

Status add_base(const PareTensor& tensor, std::string_view path, std::vector<Expected>& expected) {
  const std::string prefix = "base.";
  switch (tensor.base->form) {
    case PareForm::quantized:
      add_quantized(tensor, *tensor.base->scheme, prefix, expected);
      return {};
    case PareForm::sparse:
      return add_sparse(tensor, *tensor.base, prefix, path, expected);
    default:
      break;
  }
  const ParePart* values = tensor.part(prefix + "values");
  const DType dtype = values == nullptr ? DType::bf16 : values->dtype;
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) {
    return malformed("PK11", path, where_of(tensor, prefix + "values"), "not a type of factors or bases",
                     std::string(dtype_name(dtype)), "F32, BF16 or F16");
  }
  expected.push_back({prefix + "values", dtype, tensor.shape});
  return {};
}

Status check_low_rank(const PareTensor& tensor, std::string_view path) {
  const ParePart* left = tensor.part("left");
  const bool is_factor =
      left != nullptr && left->shape.rank() == 2 && left->shape[1] >= 1 &&
      (left->dtype == DType::f32 || left->dtype == DType::bf16 || left->dtype == DType::f16);
  if (!is_factor) {
    return malformed("PK11", path, where_of(tensor, "parts"), "not a product of two matrices",
                     parts_text(tensor), "left, right");
  }
  const int64_t rank = left->shape[1];
  std::vector<Expected> expected = {{"left", left->dtype, Shape{tensor.shape[0], rank}},
                                    {"right", left->dtype, Shape{rank, tensor.shape[1]}}};
  if (tensor.base) PARE_CHECK(add_base(tensor, path, expected));
  return check_expected(tensor, expected, "PK11", path);
}

}  // namespace

Status check_parts(const PareTensor& tensor, std::string_view path) {
  const bool is_matrix = tensor.shape.rank() == 2;
  const char* rule = tensor.form == PareForm::quantized ? "PK28" : "PK11";
  if (tensor.form != PareForm::dense && tensor.form != PareForm::alias && !is_matrix) {
    return malformed(rule, path, where_of(tensor, "shape"),
                     fmt::format("{} tensor is not a matrix", form_name(tensor.form)), tensor.shape.text());
  }
  std::vector<Expected> expected;
  switch (tensor.form) {
    case PareForm::dense: {
      const DType dtype = tensor.parts.empty() ? DType::u8 : tensor.parts[0].dtype;
      return check_expected(tensor, {{"values", dtype, tensor.shape}}, "PK28", path);
    }
    case PareForm::quantized:
      add_quantized(tensor, *tensor.scheme, "", expected);
      return check_expected(tensor, expected, "PK28", path);
    case PareForm::sparse:
      PARE_CHECK(add_sparse(tensor, tensor, "", path, expected));
      return check_expected(tensor, expected, "PK11", path);
    case PareForm::low_rank:
      return check_low_rank(tensor, path);
    case PareForm::alias:
      return check_expected(tensor, {}, "PK29", path);
  }
  return {};
}

}  // namespace pare
