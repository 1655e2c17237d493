#include "cli/kv_option.h"

#include <CLI/CLI.hpp>

#include "engine/core/assert.h"
#include "engine/models/model.h"

namespace pare::cli {

void add_kv_option(CLI::App* verb, std::string& name) {
  verb->add_option("--kv", name,
                   "keep keys and values as int8 or int4 codes, or none of it (default: as the model says)")
      ->check(CLI::IsMember({"none", "int8", "int4"}))
      ->type_name("FORM");
}

std::optional<KvQuant> asked_kv(const std::string& name) {
  if (name.empty()) return std::nullopt;
  const std::optional<KvQuant> kv = KvQuant::parse(name);
  PARE_ASSERT(kv.has_value(), "[kv] {} passed the check of the command line", name);
  return kv;
}

Result<KvQuant> effective_kv(const std::string& name, const WeightSource& source) {
  if (const std::optional<KvQuant> asked = asked_kv(name)) return *asked;
  return stored_kv(source);
}

}  // namespace pare::cli
