#include "prune/target.h"

#include <fmt/core.h>

#include <cmath>

#include "engine/core/text.h"
#include "engine/models/name_patterns.h"

namespace pare {
namespace {

Error bad_share(std::string_view text, std::string what) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "--sparsity",
               .where = {},
               .what = std::move(what),
               .got = quote(text),
               .limit = "a share below 1 such as 0.5, or N:M such as 2:4",
               .limit_label = "expected"};
}

// Weights that a last group of width w of N:M loses (algorithms.md 5.5).
int64_t removed_of_row(const SparsityPattern& pattern, int64_t in) {
  const int64_t whole = in / pattern.m, rest = in % pattern.m, gone = pattern.m - pattern.n;
  return whole * gone + gone * rest / pattern.m;
}

bool can_prune(const TensorSpec& spec) {
  return spec.is_linear || spec.role == Role::lm_head;
}

constexpr std::string_view kNever =
    "pattern names only tensors that are never pruned (embeddings, norms, biases)";

Status check_pattern(const ModelDescription& model, const std::string& pattern, const char* option) {
  return check_name_pattern(model, pattern, option, can_prune, kNever);
}

std::optional<PruneTarget> target_of(const TensorSpec& spec, const PruneSelection& selection) {
  if (!can_prune(spec)) return std::nullopt;
  for (auto rule = selection.overrides.rbegin(); rule != selection.overrides.rend(); ++rule)
    if (matches_pattern(rule->first, spec.name)) return rule->second;
  if (any_matches(selection.exclude, spec.name)) return std::nullopt;
  if (selection.include.empty() ? !spec.is_linear : !any_matches(selection.include, spec.name))
    return std::nullopt;
  return selection.target;
}

}  // namespace

int64_t Sparsity::count(int64_t weights) const {
  // In two parts, so that it holds for any matrix.
  return weights / kWhole * millionths + weights % kWhole * millionths / kWhole;
}

std::string Sparsity::text() const {
  std::string digits = fmt::format("{}.{:06}", millionths / kWhole, millionths % kWhole);
  while (digits.back() == '0') digits.pop_back();
  if (digits.back() == '.') digits.pop_back();
  return digits;
}

Sparsity Sparsity::of(double share) {
  return {.millionths = int64_t(std::llround(share * double(kWhole)))};
}

Result<Sparsity> Sparsity::parse(std::string_view text) {
  const bool is_percent = text.ends_with('%');
  const auto value = parse_double(is_percent ? text.substr(0, text.size() - 1) : text);
  if (!value || !std::isfinite(*value)) return bad_share(text, "not a share");
  const double share = is_percent ? *value / 100.0 : *value;
  if (share < 0.0 || share >= 1.0) return bad_share(text, "not a share of weights to remove");
  const Sparsity sparsity = of(share);
  if (std::abs(sparsity.share() - share) > 1e-9) return bad_share(text, "more than six decimals");
  if (sparsity.millionths == kWhole) return bad_share(text, "not a share of weights to remove");
  return sparsity;
}

int64_t PruneTarget::removed(int64_t out, int64_t in) const {
  if (pattern.kind == SparsityPattern::Kind::n_of_m) return out * removed_of_row(pattern, in);
  return sparsity.count(out * in);
}

std::string PruneTarget::text() const {
  switch (pattern.kind) {
    case SparsityPattern::Kind::n_of_m:
      return pattern.text();
    case SparsityPattern::Kind::block:
      return sparsity.text() + ":" + pattern.text();
    default:
      return sparsity.text();
  }
}

Result<PruneTarget> PruneTarget::parse(std::string_view text) {
  PruneTarget target;
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    PARE_TRY(target.sparsity, Sparsity::parse(text));
    return target;
  }
  const std::string_view behind = text.substr(colon + 1);
  if (behind.starts_with("block-")) {
    PARE_TRY(target.sparsity, Sparsity::parse(text.substr(0, colon)));
    PARE_TRY(target.pattern, SparsityPattern::parse(behind));
    return target;
  }
  const auto pattern = SparsityPattern::parse(text);
  if (!pattern || pattern->kind != SparsityPattern::Kind::n_of_m)
    return bad_share(text, "not a pattern N:M with 1 <= N < M <= 16");
  target.pattern = *pattern;
  target.sparsity = {.millionths = Sparsity::kWhole * (pattern->m - pattern->n) / pattern->m};
  return target;
}

Result<std::pair<std::string, std::optional<PruneTarget>>> parse_prune_override(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
    return Error{.exit = Exit::usage,
                 .rule = "CL12",
                 .path = "--set",
                 .where = {},
                 .what = "not of the form PATTERN=SPARSITY or PATTERN=keep",
                 .got = quote(text),
                 .limit = {}};
  }
  const std::string pattern = text.substr(0, equals), value = text.substr(equals + 1);
  if (value == "keep") return std::pair(pattern, std::optional<PruneTarget>());
  auto target = PruneTarget::parse(value);
  if (!target) {
    target.error().path = "--set";
    return target.error();
  }
  return std::pair(pattern, std::optional(*target));
}

Result<std::vector<std::optional<PruneTarget>>> select_targets(const ModelDescription& model,
                                                               const PruneSelection& selection,
                                                               bool allow_ragged) {
  for (const std::string& pattern : selection.include) PARE_CHECK(check_pattern(model, pattern, "--include"));
  for (const std::string& pattern : selection.exclude) PARE_CHECK(check_pattern(model, pattern, "--exclude"));
  for (const auto& rule : selection.overrides) PARE_CHECK(check_pattern(model, rule.first, "--set"));
  std::vector<std::optional<PruneTarget>> targets;
  for (const TensorSpec& spec : model.tensors) {
    targets.push_back(target_of(spec, selection));
    const auto& target = targets.back();
    if (!target || target->pattern.kind != SparsityPattern::Kind::n_of_m || allow_ragged) continue;
    if (spec.in() % target->pattern.m == 0) continue;
    return Error{.exit = Exit::unsupported,
                 .rule = "RC14",
                 .path = {},
                 .where = quote(spec.name),
                 .what = "pattern does not divide the inputs; --allow-ragged prunes the last inputs in part",
                 .got = std::to_string(spec.in()),
                 .limit = target->pattern.text()};
  }
  return targets;
}

}  // namespace pare
