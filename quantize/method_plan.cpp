#include "quantize/method_plan.h"

#include <array>

#include "engine/core/text.h"

namespace pare {
namespace {

using Scaling = MethodPlan::Scaling;
using Rounding = MethodPlan::Rounding;
using Range = MethodPlan::Range;

constexpr std::array kScalings = {std::pair{"awq", Scaling::awq},
                                  std::pair{"smoothquant", Scaling::smoothquant}};
constexpr std::array kRoundings = {std::pair{"rtn", Rounding::nearest}, std::pair{"gptq", Rounding::gptq},
                                   std::pair{"hqq", Rounding::hqq}, std::pair{"kmeans", Rounding::kmeans}};
constexpr std::array kRanges = {std::pair{"minmax", Range::min_max}, std::pair{"mse", Range::squared},
                                std::pair{"importance", Range::importance}};

Error bad_method(std::string_view text, std::string what, std::string_view got) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "--method",
               .where = quote(text),
               .what = std::move(what),
               .got = quote(got),
               .limit = "rtn, gptq, hqq, kmeans, awq, smoothquant, mse, importance, minmax, joined by '+'",
               .limit_label = "expected"};
}

// Sets `target` when `word` is one of `names`; false with `twice` when it was set before.
template <typename Value, size_t kCount>
bool take(std::string_view word, const std::array<std::pair<const char*, Value>, kCount>& names, bool& is_set,
          Value& target, bool& twice) {
  for (const auto& [name, value] : names) {
    if (word != name) continue;
    twice = is_set;
    is_set = true;
    target = value;
    return true;
  }
  return false;
}

template <typename Value, size_t kCount>
const char* name_of(const std::array<std::pair<const char*, Value>, kCount>& names, Value value) {
  for (const auto& [name, candidate] : names)
    if (candidate == value) return name;
  return nullptr;
}

}  // namespace

std::string MethodPlan::text() const {
  std::string text;
  if (const char* name = name_of(kScalings, scaling)) text = std::string(name) + "+";
  text += name_of(kRoundings, rounding);
  if (const char* name = name_of(kRanges, range)) text += std::string("+") + name;
  return text;
}

Result<MethodPlan> parse_method(std::string_view text) {
  MethodPlan plan;
  bool has_scaling = false, has_rounding = false, has_range = false;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('+', begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    begin = end + 1;
    bool twice = false;
    const bool known = take(word, kScalings, has_scaling, plan.scaling, twice) ||
                       take(word, kRoundings, has_rounding, plan.rounding, twice) ||
                       take(word, kRanges, has_range, plan.range, twice);
    if (!known) return bad_method(text, "unknown method", word);
    if (twice) return bad_method(text, "two words of one kind", word);
  }
  if (has_scaling && (plan.rounding == Rounding::hqq || plan.rounding == Rounding::kmeans))
    return bad_method(text, "channel scales are searched for grids; combine them with rtn or gptq",
                      name_of(kRoundings, plan.rounding));
  return plan;
}

}  // namespace pare
