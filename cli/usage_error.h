// cli/usage_error.h: what CLI11 says about a command line, as one of our errors with the nearest known
// option.
#pragma once

#include "engine/core/error.h"

namespace CLI {
class App;
class ParseError;
}  // namespace CLI

namespace pare::cli {

Error usage_error(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv);

}  // namespace pare::cli
