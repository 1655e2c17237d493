#include "prune/structured/structure.h"

#include <algorithm>
#include <array>
#include <utility>

#include "engine/core/text.h"

namespace pare {
namespace {

constexpr std::array<std::pair<std::string_view, Structure>, 6> kStructures = {{
    {"layers", Structure::layers},
    {"hidden", Structure::hidden},
    {"heads", Structure::heads},
    {"mlp", Structure::mlp},
    {"vocabulary", Structure::vocabulary},
    {"experts", Structure::experts},
}};

constexpr std::array<std::pair<std::string_view, UnitScore>, 9> kScores = {{
    {"weight", UnitScore::weight},
    {"activation", UnitScore::activation},
    {"weighted", UnitScore::weighted},
    {"obs", UnitScore::obs},
    {"eigen", UnitScore::eigen},
    {"influence", UnitScore::influence},
    {"loss", UnitScore::loss},
    {"taylor", UnitScore::taylor},
    {"fisher", UnitScore::fisher},
}};

template <typename Rows>
std::string names_of(const Rows& rows) {
  std::string names;
  for (const auto& row : rows) names.append(names.empty() ? "" : ", ").append(row.first);
  return names;
}

Error unknown(const char* option, std::string_view text, std::string known) {
  return Error{.exit = Exit::usage,
               .rule = "CL12",
               .path = option,
               .where = {},
               .what = "unknown word",
               .got = quote(text),
               .limit = std::move(known),
               .limit_label = "expected"};
}

}  // namespace

std::string_view structure_name(Structure structure) {
  return kStructures[size_t(structure)].first;
}

Result<std::vector<Structure>> parse_structures(std::string_view text) {
  std::vector<Structure> found;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    const auto row = std::find_if(kStructures.begin(), kStructures.end(),
                                  [&](const auto& candidate) { return candidate.first == word; });
    if (row == kStructures.end()) return unknown("--structure", word, names_of(kStructures));
    if (std::find(found.begin(), found.end(), row->second) == found.end()) found.push_back(row->second);
    begin = end + 1;
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string_view unit_score_name(UnitScore score) {
  return kScores[size_t(score)].first;
}

Result<UnitScore> parse_unit_score(std::string_view text) {
  for (const auto& [name, score] : kScores)
    if (name == text) return score;
  return unknown("--importance", text, names_of(kScores));
}

}  // namespace pare
