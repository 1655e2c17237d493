// Text form of a QuantScheme; the grammar stands in quant_scheme.h. "kmeans4" is also written for
// "codebook4", after the method that fits such codebooks.
#include <vector>

#include <fmt/core.h>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tensor/quant_scheme.h"

namespace pare {
namespace {

using Kind = QuantScheme::Kind;
using Granularity = QuantScheme::Granularity;
using Offset = QuantScheme::Offset;
using Range = QuantScheme::Range;

constexpr const char* kAcceptedForms =
    "int2..int8, nf4, fp8-e4m3, fp8-e5m2 or kmeans2..kmeans8 (codebook2..8), then any of -tensor, -ch, -gN, "
    "-sym, "
    "-asym, "
    "-asymf, -narrow, -full, -sf16, -sbf16, -sf32";

Range default_range(const QuantScheme& scheme) {
  const bool has_wide_default = scheme.kind == Kind::integer && scheme.is_symmetric() && scheme.bits < 8;
  return has_wide_default ? Range::full : Range::narrow;
}

std::vector<std::string_view> split_at_dashes(std::string_view text) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t dash = text.find('-');
    parts.push_back(text.substr(0, dash));
    if (dash == std::string_view::npos) return parts;
    text.remove_prefix(dash + 1);
  }
}

// What has been said so far; each question may be answered once.
struct Answers {
  bool granularity = false, offset = false, range = false, scale_dtype = false, float_type = false;
};

enum class Part { taken, unknown, repeated };

Part answer_once(bool& answered) {
  if (answered) return Part::repeated;
  answered = true;
  return Part::taken;
}

// "int4", "nf4", "fp8", "codebook4" with the defaults of that type.
bool read_type(std::string_view type, QuantScheme& scheme) {
  if (type == "nf4") {
    scheme.kind = Kind::codebook, scheme.codebook = "nf4", scheme.bits = 4;
    scheme.granularity = Granularity::group, scheme.group_size = 64;
    return true;
  }
  if (type == "fp8") {
    scheme.kind = Kind::floating;
    return true;
  }
  for (const std::string_view prefix : {"int", "codebook", "kmeans"}) {
    if (!type.starts_with(prefix)) continue;
    const std::string_view digits = type.substr(prefix.size());
    if (digits.size() != 1 || digits[0] < '2' || digits[0] > '8') return false;
    scheme.bits = digits[0] - '0';
    if (prefix != "int") scheme.kind = Kind::codebook, scheme.codebook = "custom";
    if (prefix == "int" && scheme.bits < 8) scheme.granularity = Granularity::group, scheme.group_size = 128;
    return true;
  }
  return false;
}

Part read_granularity(std::string_view part, QuantScheme& scheme, Answers& answers) {
  if (part == "tensor" || part == "ch" || part == "channel") {
    scheme.granularity = part == "tensor" ? Granularity::tensor : Granularity::channel;
    scheme.group_size = 0;
    return answer_once(answers.granularity);
  }
  if (!part.starts_with('g')) return Part::unknown;
  const auto size = parse_int(part.substr(1));
  if (!size || *size < 1 || *size > int64_t(limits::kHiddenSize)) return Part::unknown;
  scheme.granularity = Granularity::group;
  scheme.group_size = *size;
  return answer_once(answers.granularity);
}

Part read_part(std::string_view part, QuantScheme& scheme, Answers& answers) {
  const bool is_integer = scheme.kind == Kind::integer;
  if (scheme.kind == Kind::floating && (part == "e4m3" || part == "e5m2")) {
    scheme.float_type = part == "e4m3" ? DType::f8_e4m3 : DType::f8_e5m2;
    return answer_once(answers.float_type);
  }
  if (part == "sym" || (is_integer && (part == "asym" || part == "asymf"))) {
    scheme.offset = part == "sym" ? Offset::none : part == "asym" ? Offset::zero_point : Offset::minimum;
    return answer_once(answers.offset);
  }
  if (is_integer && (part == "narrow" || part == "full")) {
    scheme.range = part == "narrow" ? Range::narrow : Range::full;
    return answer_once(answers.range);
  }
  if (part == "sf16" || part == "sbf16" || part == "sf32") {
    scheme.scale_dtype = part == "sf16" ? DType::f16 : part == "sbf16" ? DType::bf16 : DType::f32;
    return answer_once(answers.scale_dtype);
  }
  return read_granularity(part, scheme, answers);
}

Error refused(std::string_view text, std::string what, std::string_view part) {
  return Error{.exit = Exit::usage,
               .rule = {},
               .path = "scheme",
               .where = quote(text),
               .what = std::move(what),
               .got = quote(part),
               .limit = kAcceptedForms,
               .limit_label = "expected"};
}

}  // namespace

std::string QuantScheme::text() const {
  std::string result;
  switch (kind) {
    case Kind::integer:
      result = fmt::format("int{}", bits);
      break;
    case Kind::floating:
      result = float_type == DType::f8_e5m2 ? "fp8-e5m2" : "fp8-e4m3";
      break;
    case Kind::codebook:
      result = codebook == "nf4" ? "nf4" : fmt::format("codebook{}", bits);
      break;
  }
  switch (granularity) {
    case Granularity::tensor:
      result += "-tensor";
      break;
    case Granularity::channel:
      result += "-ch";
      break;
    case Granularity::group:
      result += fmt::format("-g{}", group_size);
      break;
  }
  if (kind == Kind::integer) {
    result += offset == Offset::none ? "-sym" : offset == Offset::zero_point ? "-asym" : "-asymf";
    if (is_symmetric() && range != default_range(*this))
      result += range == Range::narrow ? "-narrow" : "-full";
  }
  if (scale_dtype == DType::f32) result += "-sf32";
  if (scale_dtype == DType::bf16) result += "-sbf16";
  return result;
}

Result<QuantScheme> QuantScheme::parse(std::string_view text) {
  const std::vector<std::string_view> parts = split_at_dashes(text);
  QuantScheme scheme;
  if (!read_type(parts[0], scheme)) return refused(text, "unknown type of codes", parts[0]);
  Answers answers;
  for (size_t i = 1; i < parts.size(); ++i) {
    switch (read_part(parts[i], scheme, answers)) {
      case Part::taken:
        break;
      case Part::unknown:
        return refused(text, "unknown part of a scheme", parts[i]);
      case Part::repeated:
        return refused(text, "part of a scheme given twice", parts[i]);
    }
  }
  if (answers.range && !scheme.is_symmetric()) {
    return refused(text, "narrow and full are for symmetric schemes",
                   scheme.range == Range::full ? "full" : "narrow");
  }
  if (!answers.range) scheme.range = default_range(scheme);
  return scheme;
}

}  // namespace pare
