#include "cli/libraries.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>
#include <zstd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <CLI/Version.hpp>
#include <array>
#include <nlohmann/json.hpp>

#include <fmt/core.h>

namespace pare::cli {

std::vector<std::pair<std::string, std::string>> library_versions() {
  std::array<char, 64> pcre2{};
  pcre2_config(PCRE2_CONFIG_VERSION, pcre2.data());
  const unsigned xxhash = XXH_versionNumber();
  return {
      {"CLI11", CLI11_VERSION},
      {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)},
      {"nlohmann-json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
                                    NLOHMANN_JSON_VERSION_PATCH)},
      {"PCRE2", pcre2.data()},
      {"utf8proc", utf8proc_version()},
      {"xxHash", fmt::format("{}.{}.{}", xxhash / 10000, xxhash / 100 % 100, xxhash % 100)},
      {"zstd", ZSTD_versionString()},
  };
}

}  // namespace pare::cli
