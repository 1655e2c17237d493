#include <algorithm>
#include <array>

#include "formats/dialects/awq.h"
#include "formats/dialects/compressed_tensors.h"
#include "formats/dialects/dialect.h"
#include "formats/dialects/gptq.h"

namespace pare {
namespace {

constexpr std::array kDialects{
    Dialect{"compressed-tensors", read_compressed_tensors, plan_compressed_tensors},
    Dialect{"gptq", read_gptq, plan_gptq},
    Dialect{"awq", read_awq, plan_awq},
};

}  // namespace

std::span<const Dialect> dialects() {
  return kDialects;
}

const Dialect* find_dialect(std::string_view name) {
  const auto found = std::find_if(kDialects.begin(), kDialects.end(),
                                  [&](const Dialect& dialect) { return dialect.name == name; });
  return found == kDialects.end() ? nullptr : &*found;
}

}  // namespace pare
