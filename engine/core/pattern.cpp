// engine/core/pattern.cpp: matches_pattern of text.h, as a set of states that moves through the name.
//
// Patterns come from recipes, so the time must not explode: a pattern of m bytes has at most m + 1 states and
// a name of n bytes is matched in O(n m), whatever `*` and nested alternatives it holds.
#include <cstdint>
#include <utility>
#include <vector>

#include "engine/core/text.h"

namespace pare {
namespace {

struct Step {
  enum class Kind { literal, any_character, any_run, jump, fork, match } kind;
  char literal = 0;
  std::vector<size_t> targets = {};  // of jump and fork
};

// Braces mean alternatives only when they are balanced; otherwise they stand for themselves.
bool has_balanced_braces(std::string_view pattern) {
  int depth = 0;
  for (const char c : pattern) {
    depth += c == '{' ? 1 : c == '}' ? -1 : 0;
    if (depth < 0) return false;
  }
  return depth == 0;
}

std::vector<Step> compile(std::string_view pattern) {
  struct Open {
    size_t fork;                 // the step that leads to the alternatives
    std::vector<size_t> leaves;  // jumps at the end of each alternative but the last
  };
  const bool braces = has_balanced_braces(pattern);
  std::vector<Step> steps;
  std::vector<Open> open;
  for (const char c : pattern) {
    if (c == '*') {
      steps.push_back({Step::Kind::any_run});
    } else if (c == '?') {
      steps.push_back({Step::Kind::any_character});
    } else if (braces && c == '{') {
      open.push_back({steps.size(), {}});
      steps.push_back({Step::Kind::fork, 0, {steps.size() + 1}});
    } else if (braces && c == ',' && !open.empty()) {
      open.back().leaves.push_back(steps.size());
      steps.push_back({Step::Kind::jump});
      steps[open.back().fork].targets.push_back(steps.size());
    } else if (braces && c == '}') {
      for (const size_t leaf : open.back().leaves) steps[leaf].targets = {steps.size()};
      open.pop_back();
    } else {
      steps.push_back({Step::Kind::literal, c});
    }
  }
  steps.push_back({Step::Kind::match});
  return steps;
}

// The states that are alive at one position of the name.
class States {
 public:
  explicit States(const std::vector<Step>& steps) : steps_(&steps), alive_(steps.size(), false) {}

  // Adds a state and all that it reaches without reading a character.
  void add(size_t state) {
    pending_.push_back(state);
    while (!pending_.empty()) {
      const size_t current = pending_.back();
      pending_.pop_back();
      if (alive_[current]) continue;
      alive_[current] = true;
      list_.push_back(current);
      const Step& step = (*steps_)[current];
      if (step.kind == Step::Kind::any_run) pending_.push_back(current + 1);
      for (const size_t target : step.targets) pending_.push_back(target);
    }
  }
  void clear() {
    for (const size_t state : list_) alive_[state] = false;
    list_.clear();
  }
  bool matched() const { return alive_.back(); }
  const std::vector<size_t>& list() const { return list_; }

 private:
  const std::vector<Step>* steps_;
  std::vector<bool> alive_;
  std::vector<size_t> list_;
  std::vector<size_t> pending_;
};

}  // namespace

bool matches_pattern(std::string_view pattern, std::string_view name) {
  const std::vector<Step> steps = compile(pattern);
  constexpr std::string_view kSuffix = ".weight";
  const size_t early_end = name.ends_with(kSuffix) ? name.size() - kSuffix.size() : name.size();
  States current(steps), next(steps);
  for (size_t i = 0; i <= name.size(); ++i) {
    if (i == 0 || name[i - 1] == '.') current.add(0);
    if ((i == early_end || i == name.size()) && current.matched()) return true;
    if (i == name.size()) break;
    for (const size_t state : current.list()) {
      const Step& step = steps[state];
      if (step.kind == Step::Kind::any_run) next.add(state);
      if (step.kind == Step::Kind::any_character ||
          (step.kind == Step::Kind::literal && step.literal == name[i])) {
        next.add(state + 1);
      }
    }
    std::swap(current, next);
    next.clear();
  }
  return false;
}

}  // namespace pare
