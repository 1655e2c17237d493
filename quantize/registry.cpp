// The methods of `pare quantize`, in the order of its help.
#include <algorithm>
#include <array>

#include "engine/core/text.h"
#include "quantize/codebook.h"
#include "quantize/hqq.h"
#include "quantize/quantizer.h"
#include "quantize/round_to_nearest.h"

namespace pare {
namespace {

constexpr std::array kMethods{
    QuantizeMethod{"rtn", "round to nearest; needs no data", round_to_nearest},
    QuantizeMethod{"hqq", "move zero points so that few errors are large; for -asymf and -asym",
                   half_quadratic},
    QuantizeMethod{"kmeans", "fit the values of the codes; for kmeans2 to kmeans8", k_means},
};

// Methods that users of other tools ask for; named so that the refusal is clear.
constexpr std::array<std::string_view, 4> kKnownElsewhere = {"gptq", "awq", "smoothquant", "nf4"};

}  // namespace

std::span<const QuantizeMethod> quantize_methods() {
  return kMethods;
}

Result<const QuantizeMethod*> find_quantize_method(std::string_view name) {
  const auto found =
      std::find_if(kMethods.begin(), kMethods.end(), [&](const auto& m) { return m.name == name; });
  if (found != kMethods.end()) return &*found;
  std::string list;
  for (const QuantizeMethod& method : kMethods) list += (list.empty() ? "" : ", ") + std::string(method.name);
  const bool is_known =
      std::find(kKnownElsewhere.begin(), kKnownElsewhere.end(), name) != kKnownElsewhere.end();
  return Error{.exit = is_known ? Exit::unsupported : Exit::usage,
               .rule = is_known ? "RC08" : "CL06",
               .path = "--method",
               .where = {},
               .what = is_known ? "method is not available in this version" : "unknown method",
               .got = quote(name),
               .limit = list,
               .limit_label = "expected"};
}

}  // namespace pare
