// engine/tokenizer/regex.h: patterns that come from a file, run by PCRE2's interpreter under limits.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"
#include "engine/tokenizer/piece.h"

namespace pare {

// Immutable after compile(); any number of threads may search with it.
class Regex {
 public:
  // `where` names the field of the file. Errors: TK08 (malformed), TK11 (unsupported construct or property).
  static Result<std::shared_ptr<const Regex>> compile(std::string_view pattern, const std::string& path,
                                                      const std::string& where);
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  // All matches from left to right, none overlapping; an empty match right behind the one before is passed
  // over. `text` is valid UTF-8. Error: TK09 (resource), when a limit of limits.h ends the search: per
  // attempt the match, depth and heap limits, per call a total of steps.
  Status find_all(std::string_view text, std::vector<Piece>& matches) const;

  const std::string& pattern() const;

 private:
  struct State;
  explicit Regex(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pare
