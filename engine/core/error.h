// engine/core/error.h: what went wrong, as a value: file > field > value > limit.
//
// Whatever comes from outside (file, option, device) is reported with an Error; what only we can cause is
// a PARE_ASSERT (assert.h). Library code never prints, exits or aborts; cli/main.cpp turns an Error into
// its one line.
#pragma once

#include <string>

#include "engine/core/exit_code.h"

namespace pare {

struct Error {
  Exit exit = Exit::internal;
  std::string rule{};   // id of the row in docs/bad-input.md, for example "ST19"; may be empty
  std::string path{};   // file as the user named it (plus shard), option ("--bits") or device ("cuda:0")
  std::string where{};  // tensor, key, line:column or byte offset; already quoted when it comes from a file
  std::string what{};   // a phrase in lower case without a final stop; remedy after a semicolon
  std::string got{};    // the value found; empty when there is none
  std::string limit{};  // the cap, expected value or need; empty when there is none
  const char* limit_label =
      "limit";  // "limit" for a cap, "expected" for an exact value, "need" if too little
};

// `<path>: <where>: <what> (got <value>, limit <value>)`: at most 4,096 bytes, one line, sanitised.
std::string format_error(const Error& error);

// The same as one JSON object {"level":"error","exit":3,"rule":...} on one line.
std::string format_error_json(const Error& error);

}  // namespace pare
