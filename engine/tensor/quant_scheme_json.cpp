// A QuantScheme inside a .pare directory or a manifest. Every member is checked; the directory is untrusted.
#include <array>

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

template <typename Value>
struct Word {
  std::string_view text;
  Value value;
};
constexpr std::array kKinds{Word<Kind>{"integer", Kind::integer}, Word<Kind>{"floating", Kind::floating},
                            Word<Kind>{"codebook", Kind::codebook}};
constexpr std::array kGranularities{Word<Granularity>{"tensor", Granularity::tensor},
                                    Word<Granularity>{"channel", Granularity::channel},
                                    Word<Granularity>{"group", Granularity::group}};
constexpr std::array kOffsets{Word<Offset>{"none", Offset::none},
                              Word<Offset>{"zero_point", Offset::zero_point},
                              Word<Offset>{"minimum", Offset::minimum}};
constexpr std::array kRanges{Word<Range>{"narrow", Range::narrow}, Word<Range>{"full", Range::full}};
constexpr std::array kScaleTypes{Word<DType>{"F16", DType::f16}, Word<DType>{"BF16", DType::bf16},
                                 Word<DType>{"F32", DType::f32}};
constexpr std::array kFloatTypes{Word<DType>{"F8_E4M3", DType::f8_e4m3},
                                 Word<DType>{"F8_E5M2", DType::f8_e5m2}};
constexpr std::array kCodebooks{Word<int>{"nf4", 4}, Word<int>{"custom", 0}};
constexpr std::array<std::string_view, 8> kMembers{"kind",   "bits",  "granularity", "group_size",
                                                   "offset", "range", "scale_dtype", "float_type"};

template <typename Words, typename Value>
std::string word_of(const Words& words, Value value) {
  for (const auto& word : words) {
    if (word.value == value) return std::string(word.text);
  }
  return {};
}

// Reads members of one object; errors name file and member.
struct Reader {
  const Json& json;
  std::string_view path, where;

  Error error(Exit exit, std::string_view member, std::string what, std::string got,
              std::string limit = {}) const {
    return Error{.exit = exit,
                 .rule = "PK09",
                 .path = std::string(path),
                 .where = fmt::format("{}.{}", where, member),
                 .what = std::move(what),
                 .got = std::move(got),
                 .limit = std::move(limit),
                 .limit_label = "expected"};
  }

  // One of `words`; a word that this version does not know is unsupported, not malformed.
  template <typename Words, typename Value>
  Status read_word(std::string_view member, const Words& words, Value& value) const {
    const Json* found = json.find(member);
    if (found == nullptr) return error(Exit::malformed, member, "missing", {});
    if (!found->is_string()) return error(Exit::malformed, member, "not a string", found->kind_name());
    std::string known;
    for (const auto& word : words) {
      if (found->as_string() == word.text) {
        value = word.value;
        return {};
      }
      known += (known.empty() ? "" : ", ") + std::string(word.text);
    }
    return error(Exit::unsupported, member, "unknown to this version", quote(found->as_string()), known);
  }

  Status read_integer(std::string_view member, int64_t low, int64_t high, int64_t& value) const {
    const Json* found = json.find(member);
    if (found == nullptr) return error(Exit::malformed, member, "missing", {});
    if (found->kind() != Json::Kind::integer && found->kind() != Json::Kind::unsigned_integer) {
      return error(Exit::malformed, member, "not an integer", found->kind_name());
    }
    const bool fits = found->kind() == Json::Kind::integer || found->as_uint() <= uint64_t(INT64_MAX);
    value = fits ? found->as_int() : INT64_MAX;
    if (value < low || value > high) {
      return error(Exit::malformed, member, "impossible value", found->dump(),
                   fmt::format("{} to {}", low, high));
    }
    return {};
  }
};

Status check_members(const Reader& reader) {
  for (const auto& [name, value] : reader.json.members()) {
    bool known = name == "codebook";
    for (std::string_view member : kMembers) known = known || name == member;
    if (!known) return reader.error(Exit::unsupported, quote(name), "unknown to this version", {});
  }
  return {};
}

Status read_kind_members(const Reader& reader, QuantScheme& scheme) {
  switch (scheme.kind) {
    case Kind::integer:
      PARE_CHECK(reader.read_word("offset", kOffsets, scheme.offset));
      if (scheme.is_symmetric()) PARE_CHECK(reader.read_word("range", kRanges, scheme.range));
      return {};
    case Kind::floating:
      PARE_CHECK(reader.read_word("float_type", kFloatTypes, scheme.float_type));
      if (scheme.bits != 8) {
        return reader.error(Exit::malformed, "bits", "not the width of the float type",
                            std::to_string(scheme.bits), "8");
      }
      return {};
    case Kind::codebook: {
      int fixed_bits = 0;
      PARE_CHECK(reader.read_word("codebook", kCodebooks, fixed_bits));
      scheme.codebook = reader.json.find("codebook")->as_string();
      if (fixed_bits != 0 && scheme.bits != fixed_bits) {
        return reader.error(Exit::malformed, "bits", "not the width of the codebook",
                            std::to_string(scheme.bits), std::to_string(fixed_bits));
      }
      return {};
    }
  }
  return {};
}

}  // namespace

Json QuantScheme::to_json() const {
  Json json = Json::object();
  json["kind"] = word_of(kKinds, kind);
  json["bits"] = bits;
  json["granularity"] = word_of(kGranularities, granularity);
  if (granularity == Granularity::group) json["group_size"] = group_size;
  if (kind == Kind::integer) {
    json["offset"] = word_of(kOffsets, offset);
    if (is_symmetric()) json["range"] = word_of(kRanges, range);
  }
  json["scale_dtype"] = word_of(kScaleTypes, scale_dtype);
  if (kind == Kind::floating) json["float_type"] = word_of(kFloatTypes, float_type);
  if (kind == Kind::codebook) json["codebook"] = codebook;
  return json;
}

Result<QuantScheme> QuantScheme::from_json(const Json& json, std::string_view path, std::string_view where) {
  if (!json.is_object()) {
    return Error{.exit = Exit::malformed,
                 .rule = "PK09",
                 .path = std::string(path),
                 .where = std::string(where),
                 .what = "scheme is not an object",
                 .got = json.kind_name(),
                 .limit = {}};
  }
  const Reader reader{json, path, where};
  QuantScheme scheme;
  PARE_CHECK(reader.read_word("kind", kKinds, scheme.kind));  // first: a newer kind may have newer members
  PARE_CHECK(check_members(reader));
  int64_t bits = 0;
  PARE_CHECK(reader.read_integer("bits", 1, 16, bits));
  if (bits < 2 || bits > 8) {
    return reader.error(Exit::unsupported, "bits", "width of codes not supported", std::to_string(bits),
                        "2 to 8");
  }
  scheme.bits = int(bits);
  PARE_CHECK(reader.read_word("granularity", kGranularities, scheme.granularity));
  if (scheme.granularity == Granularity::group) {
    PARE_CHECK(reader.read_integer("group_size", 1, int64_t(limits::kHiddenSize), scheme.group_size));
  } else if (json.find("group_size") != nullptr) {
    return reader.error(Exit::malformed, "group_size", "given without groups",
                        json.find("group_size")->dump());
  }
  PARE_CHECK(reader.read_word("scale_dtype", kScaleTypes, scheme.scale_dtype));
  PARE_CHECK(read_kind_members(reader, scheme));
  return scheme;
}

}  // namespace pare
