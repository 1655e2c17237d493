// tests/cli/words.h: command lines and what they print, for tests of the commands.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "engine/core/json.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {

using Words = std::vector<std::string>;

inline std::string sample_model() {
  return source_path("samples/books-3m");
}
inline std::string sample_text() {
  return source_path("samples/text/sample.txt");
}

inline Words plus(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}
inline Words operator+(Words words, const Words& more) {
  return plus(std::move(words), more);
}

// stdout of a command that succeeded with --json.
inline Json json_of(const CommandResult& result) {
  EXPECT_EQ(result.exit_code, 0) << result.error;
  auto json = parse_json(result.out, "stdout", {.max_bytes = 1u << 26});
  EXPECT_TRUE(json.has_value()) << result.out;
  return json ? *json : Json::object();
}

// The member at "a.b"; null when there is none.
inline Json at(const Json& json, const std::string& path) {
  const size_t dot = path.find('.');
  const Json* found = json.find(path.substr(0, dot));
  if (found == nullptr) return Json();
  return dot == std::string::npos ? *found : at(*found, path.substr(dot + 1));
}

// The same, where it is a number.
inline double number(const Json& json, const std::string& path) {
  const Json found = at(json, path);
  EXPECT_TRUE(found.is_number()) << path;
  return found.is_number() ? found.as_double() : 0.0;
}

}  // namespace pare::test
