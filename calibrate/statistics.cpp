#include "calibrate/statistics.h"

#include <array>

#include "engine/core/text.h"

namespace pare {
namespace {

constexpr std::array<std::pair<std::string_view, Statistic>, 8> kNames = {{
    {"second_moment", Statistic::second_moment},
    {"absmean", Statistic::absmean},
    {"absmax", Statistic::absmax},
    {"square", Statistic::square},
    {"range", Statistic::range},
    {"histogram", Statistic::histogram},
    {"mean", Statistic::mean},
    {"sample_absmean", Statistic::sample_absmean},
}};

}  // namespace

std::string_view statistic_name(Statistic statistic) {
  return kNames[size_t(statistic)].first;
}

Result<Statistic> parse_statistic(std::string_view name) {
  std::string known;
  for (const auto& [text, statistic] : kNames) {
    if (text == name) return statistic;
    if (!known.empty()) known += ", ";
    known += text;
  }
  return Error{.exit = Exit::usage,
               .rule = "CL12",
               .path = "--statistics",
               .where = {},
               .what = "unknown statistic",
               .got = quote(name),
               .limit = known,
               .limit_label = "expected"};
}

}  // namespace pare
