// cli/kv_option.h: --kv, how keys and values are kept.
#pragma once

#include <optional>
#include <string>

#include "engine/models/weight_source.h"
#include "engine/tensor/kv_quant.h"

namespace CLI {
class App;
}

namespace pare::cli {

// An empty `name` means that the option was not given: then the model decides.
void add_kv_option(CLI::App* verb, std::string& name);
std::optional<KvQuant> asked_kv(const std::string& name);
// What a run of this model will use.
Result<KvQuant> effective_kv(const std::string& name, const WeightSource& source);

}  // namespace pare::cli
