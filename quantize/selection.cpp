#include "quantize/selection.h"

#include "engine/core/text.h"
#include "engine/models/name_patterns.h"

namespace pare {
namespace {

bool can_quantize(const TensorSpec& spec) {
  return spec.is_linear || spec.role == Role::embedding || spec.role == Role::lm_head;
}

constexpr std::string_view kNever =
    "pattern names only tensors that are never quantized (norms, biases, positions)";

Status check_pattern(const ModelDescription& model, const std::string& pattern, const char* option) {
  return check_name_pattern(model, pattern, option, can_quantize, kNever);
}

std::optional<QuantScheme> scheme_of(const TensorSpec& spec, const Selection& selection) {
  if (!can_quantize(spec)) return std::nullopt;
  for (auto rule = selection.overrides.rbegin(); rule != selection.overrides.rend(); ++rule) {
    if (matches_pattern(rule->first, spec.name)) return rule->second;
  }
  if (any_matches(selection.exclude, spec.name)) return std::nullopt;
  if (spec.role == Role::embedding) return selection.embedding_scheme;
  if (spec.role == Role::lm_head) return selection.head_scheme;
  if (!selection.include.empty() && !any_matches(selection.include, spec.name)) return std::nullopt;
  return selection.scheme;
}

}  // namespace

Result<std::pair<std::string, std::optional<QuantScheme>>> parse_override(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
    return Error{.exit = Exit::usage,
                 .rule = "CL12",
                 .path = "--set",
                 .where = {},
                 .what = "not of the form PATTERN=SCHEME or PATTERN=keep",
                 .got = quote(text),
                 .limit = {}};
  }
  const std::string pattern = text.substr(0, equals), value = text.substr(equals + 1);
  if (value == "keep") return std::pair(pattern, std::optional<QuantScheme>());
  auto scheme = QuantScheme::parse(value);
  if (!scheme) {
    scheme.error().path = "--set";
    return scheme.error();
  }
  return std::pair(pattern, std::optional(*std::move(scheme)));
}

Result<std::vector<std::optional<QuantScheme>>> select_schemes(const ModelDescription& model,
                                                               const Selection& selection) {
  for (const std::string& pattern : selection.include) PARE_CHECK(check_pattern(model, pattern, "--include"));
  for (const std::string& pattern : selection.exclude) PARE_CHECK(check_pattern(model, pattern, "--exclude"));
  for (const auto& rule : selection.overrides) PARE_CHECK(check_pattern(model, rule.first, "--set"));
  std::vector<std::optional<QuantScheme>> schemes;
  schemes.reserve(model.tensors.size());
  for (const TensorSpec& spec : model.tensors) schemes.push_back(scheme_of(spec, selection));
  return schemes;
}

}  // namespace pare
