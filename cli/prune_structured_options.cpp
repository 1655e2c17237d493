// The options of `pare prune --structure`.
#include <CLI/CLI.hpp>

#include "cli/prune_structured.h"

namespace pare::cli {

void add_structured_options(CLI::App& verb, StructuredArguments& arguments) {
  const char* group = "Structured";
  verb.add_option("--structure", arguments.structure,
                  "what to cut instead of single weights, with commas: layers, hidden, experts, heads, mlp, "
                  "vocabulary")
      ->type_name("LIST")
      ->group(group);
  verb.add_option("--importance", arguments.importance,
                  "score of a unit: weight, activation, weighted, obs, eigen, taylor, fisher; layers: "
                  "influence, loss, "
                  "taylor, fisher")
      ->type_name("SCORE")
      ->group(group);
  verb.add_option("--params", arguments.params, "at most so many parameters: 100M, 1.5B")
      ->type_name("N")
      ->group(group);
  verb.add_option("--latency", arguments.latency,
                  "at most this share of the time of one token, by times measured on this machine: 0.5x")
      ->type_name("SHARE")
      ->group(group);
  const auto size = [&](const char* name, int64_t& value, const char* help) {
    verb.add_option(name, value, help)
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
        ->type_name("N")
        ->group(group);
  };
  size("--hidden", arguments.hidden, "hidden size that is left");
  size("--intermediate", arguments.intermediate, "MLP channels that are left in each layer");
  size("--layers", arguments.layers, "layers that are left");
  size("--heads", arguments.heads, "query heads that are left in each layer");
  size("--kv-heads", arguments.kv_heads, "key/value heads that are left in each layer");
  size("--experts", arguments.experts, "experts that are left in each layer");
  verb.add_option("--head-units", arguments.head_units,
                  "groups: keys, values and their queries; queries: the same number in each group")
      ->check(CLI::IsMember({"groups", "queries"}))
      ->capture_default_str()
      ->type_name("KIND")
      ->group(group);
  verb.add_option("--multiple", arguments.multiple, "hidden and MLP sizes are multiples of this")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  verb.add_flag("--repair", arguments.repair,
                "fit the linears that read a cut site to what they gave before, in closed form")
      ->group(group);
  verb.add_flag("--match-original", arguments.match_original,
                "with --repair: fit to the outputs of the original model, not of the layers cut so far")
      ->group(group);
  verb.add_flag("--keep-norms", arguments.keep_norms,
                "do not scale the norms of a cut hidden size to the energy that is left")
      ->group(group);
  verb.add_option("--repair-damping", arguments.damping, "share of the mean diagonal added to second moments")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str()
      ->type_name("SHARE")
      ->group(group);
  verb.add_option("--keep-first", arguments.keep_first, "first layers that stay (default: 4)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
      ->type_name("N")
      ->group(group);
  verb.add_option("--keep-last", arguments.keep_last, "last layers that stay (default: 2)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
      ->type_name("N")
      ->group(group);
  verb.add_option("--drop-layers", arguments.drop_layers, "these layers, counted from 0, with commas")
      ->delimiter(',')
      ->type_name("LIST")
      ->group(group);
  verb.add_option("--keep-corpus", arguments.keep_corpus, "text whose tokens a cut vocabulary keeps")
      ->type_name("FILE")
      ->group(group);
  verb.add_option("--min-count", arguments.min_count, "how often a token must be in that text to stay")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
}

}  // namespace pare::cli
