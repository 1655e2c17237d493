#include "prune/rank_rule.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>

#include "calibrate/rank_choice.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr std::pair<RankRule::Kind, std::string_view> kKinds[] = {{RankRule::Kind::energy, "energy"},
                                                                  {RankRule::Kind::rank, "rank"},
                                                                  {RankRule::Kind::error, "error"},
                                                                  {RankRule::Kind::budget, "budget"}};
constexpr int64_t kLargestRank = 1'000'000;

Error malformed(std::string_view text, const char* what) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "--low-rank",
               .where = {},
               .what = what,
               .got = quote(text),
               .limit = "energy=0.95, rank=64, error=0.05 or budget=0.7",
               .limit_label = "expected"};
}

template <typename Number>
bool read(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

Result<RankRule> RankRule::parse(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos) return malformed(text, "not a rule of ranks");
  for (const auto& [kind, name] : kKinds) {
    if (text.substr(0, equals) != name) continue;
    const std::string_view number = text.substr(equals + 1);
    RankRule rule{.kind = kind, .value = 0.0, .rank = 0};
    if (kind == Kind::rank) {
      if (!read(number, rule.rank) || rule.rank < 1 || rule.rank > kLargestRank)
        return malformed(text, "a rank is a whole number from 1");
      return rule;
    }
    if (!read(number, rule.value) || !(rule.value > 0.0) || !(rule.value < 1.0))
      return malformed(text, "lies between 0 and 1, both excluded");
    return rule;
  }
  return malformed(text, "not a rule of ranks");
}

std::string RankRule::text() const {
  if (kind == Kind::rank) return fmt::format("rank={}", rank);
  for (const auto& [value_kind, name] : kKinds)
    if (value_kind == kind) return fmt::format("{}={}", name, value);
  return {};
}

int64_t RankRule::rank_of(const OutputComponents& components) const {
  PARE_ASSERT(kind != Kind::budget, "[rank_rule] {} for one matrix", text());
  if (kind == Kind::rank) return rank;
  return kind == Kind::energy ? rank_by_energy(components.spectrum, components.energy, value)
                              : rank_by_error(components.spectrum, components.energy, value);
}

}  // namespace pare
