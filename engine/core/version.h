// engine/core/version.h: the version that manifests and --version show.
#pragma once

namespace pare {
inline constexpr const char* kVersion = "0.1.0";
// The compiler: resumed jobs must be continued by the same build.
inline constexpr const char* kBuildId = __VERSION__;
}
