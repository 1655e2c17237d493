#include "cli/tuning.h"

#include <fmt/core.h>

#include <cmath>
#include <cstdlib>

#include "engine/core/file.h"
#include "engine/core/folder.h"
#include "engine/core/hash.h"
#include "engine/core/json.h"
#include "engine/core/log.h"
#include "engine/core/text.h"
#include "engine/core/version.h"

namespace pare::cli {
namespace {

constexpr uint64_t kMaxBytes = 1 << 20;
constexpr double kMaxRatio = 1000.0;

std::string& label() {
  static std::string text;
  return text;
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// The table of a parsed file, or why it is not used.
Result<cpu::SparseTable> table_of(const Json& json, cpu::Isa level) {
  const auto refuse = [](std::string why) {
    return Error{.exit = Exit::malformed,
                 .rule = {},
                 .path = {},
                 .where = {},
                 .what = std::move(why),
                 .got = {},
                 .limit = {}};
  };
  const auto differs = [&](const char* key, std::string_view want) {
    const Json* value = json.is_object() ? json.find(key) : nullptr;
    return value == nullptr || !value->is_string() || value->as_string() != want;
  };
  if (differs("cpu", cpu::cpu_model())) return refuse("it was measured on another CPU");
  if (differs("program_version", kVersion)) return refuse("it was measured by another version of pare");
  if (differs("cpu_level", cpu::isa_name(level))) return refuse("it was measured for another CPU level");
  const Json* speeds = json.find("sparse_kernels");
  if (speeds == nullptr || !speeds->is_object()) return refuse("it has no speeds");
  cpu::SparseTable table;
  for (const cpu::SparseKind& kind : cpu::sparse_kinds()) {
    const Json* line = speeds->find(kind.name());
    std::array<double, cpu::kSizeClasses> ratios{};
    for (size_t i = 0; i < ratios.size(); ++i) {
      const Json* value = line != nullptr && line->is_object() ? line->find(cpu::kSizeNames[i]) : nullptr;
      if (value == nullptr || !value->is_number() ||
          !(value->as_double() >= 0.0 && value->as_double() <= kMaxRatio))
        return refuse(fmt::format("it has no speed for {}", kind.name()));
      ratios[i] = value->as_double();
    }
    table.push_back(ratios);
  }
  return table;
}

}  // namespace

std::optional<std::string> tuning_path() {
  const std::string given = variable("PARE_TUNING");
  if (given == "off") return std::nullopt;
  if (!given.empty()) return given;
  // Relative paths in XDG variables are to be ignored (XDG Base Directory Specification).
  const std::string cache = variable("XDG_CACHE_HOME"), home = variable("HOME");
  if (cache.starts_with('/')) return cache + "/pare/tuning.json";
  if (home.starts_with('/')) return home + "/.cache/pare/tuning.json";
  return std::nullopt;
}

void load_tuning(cpu::Isa level) {
  const std::optional<std::string> path = tuning_path();
  if (!path || !path_exists(*path)) {
    if (path && !variable("PARE_TUNING").empty())
      log_warning(fmt::format("PARE_TUNING: {} does not exist; built-in speeds are used", quote(*path)));
    return;
  }
  const auto ignore = [&](const std::string& why) {
    log_warning(fmt::format("{} is not used: {}; run `pare doctor --tune` again or set PARE_TUNING=off",
                            quote(*path), why));
  };
  const Result<std::string> text = read_text_file(*path, kMaxBytes);
  if (!text) return ignore(text.error().what);
  const Result<Json> json = parse_json(*text, *path, {.max_bytes = kMaxBytes});
  if (!json) return ignore(json.error().what);
  Result<cpu::SparseTable> table = table_of(*json, level);
  if (!table) return ignore(table.error().what);
  cpu::set_sparse_table(level, std::move(*table));
  label() = "tuned " + xxh3_128(*text).hex().substr(0, 8);
}

std::string tuning_label() {
  return label();
}

Status save_tuning(const std::string& path, cpu::Isa level, const cpu::SparseTable& table) {
  Json json = Json::object(), speeds = Json::object();
  json["schema_version"] = 1;
  json["program_version"] = kVersion;
  json["cpu"] = cpu::cpu_model();
  json["cpu_level"] = cpu::isa_name(level);
  for (size_t i = 0; i < table.size(); ++i) {
    Json line = Json::object();
    for (size_t size = 0; size < table[i].size(); ++size)
      line[cpu::kSizeNames[size]] = std::round(1000.0 * table[i][size]) / 1000.0;
    speeds[cpu::sparse_kinds()[i].name()] = std::move(line);
  }
  json["sparse_kernels"] = std::move(speeds);
  const size_t slash = path.rfind('/');
  if (slash != std::string::npos && slash > 0) {
    PARE_CHECK(make_folders(path.substr(0, slash)));
  }
  PARE_TRY(FileWriter writer, FileWriter::create(path, {.force = true}));
  PARE_CHECK(writer.write(json.dump(2) + "\n"));
  return writer.publish();
}

}  // namespace pare::cli
