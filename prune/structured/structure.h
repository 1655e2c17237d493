// prune/structured/structure.h: what structured pruning can take away, and by which score it chooses.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"

namespace pare {

// In the order in which they are applied, so that each is chosen on the result of those before.
enum class Structure : uint8_t { layers, hidden, heads, mlp, vocabulary, experts };
std::string_view structure_name(Structure structure);
// "mlp,heads" in order of application, each once. Exit 2 with the list.
Result<std::vector<Structure>> parse_structures(std::string_view text);

// The score of a unit; the lowest go first (docs/methods.md).
enum class UnitScore : uint8_t {
  weight,      // L2 norm of everything that is cut with the unit
  activation,  // Minitron: mean |a| of a window, squared, summed over windows
  weighted,    // |outgoing column| * mean |a|
  obs,         // error of the outputs after the best correction for this unit alone
  eigen,       // leverage: share of the unit in the principal directions of its site
  influence,   // layers: 1 - cosine between what enters and what leaves
  loss,        // layers: loss without it, measured again after each removal
  taylor,      // change of the loss to first order (unit_gradients.h)
  fisher,      // to second order, by the Fisher information
};
std::string_view unit_score_name(UnitScore score);
// Exit 2 with the list.
Result<UnitScore> parse_unit_score(std::string_view text);

// How heads are cut where several share keys and values.
enum class HeadUnits : uint8_t {
  groups,   // whole groups: keys, values and all their queries
  queries,  // the same number of queries of each group
};

}  // namespace pare
