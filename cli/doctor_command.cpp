#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <memory>

#include "cli/commands.h"
#include "cli/libraries.h"
#include "cli/tuning.h"
#include "engine/backends/cpu/isa.h"
#include "engine/backends/cpu/sparse/tune.h"
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/backends/cuda/device_info.h"
#include "engine/core/memory.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/core/version.h"
#include "engine/tensor/backend.h"

namespace pare::cli {
namespace {

std::string gpu_line(const GpuInfo& gpu) {
  return gpu.name + ", compute " + std::to_string(gpu.compute_capability / 10) + "." +
         std::to_string(gpu.compute_capability % 10) + ", " + format_bytes(gpu.free_bytes) + " of " +
         format_bytes(gpu.total_bytes) + " free" +
         (gpu.compute_capability < 80 ? ": too old, 8.0 or higher is needed" : "");
}

// Which speeds of sparse kernels decide.
std::string tuning_line() {
  const std::string label = tuning_label();
  return label.empty() ? "built-in speeds of sparse kernels" : label + " on this machine, " + *tuning_path();
}

// Measures this machine and keeps the table for later runs.
Result<Exit> run_tune(const CommonOptions& common) {
  PARE_CHECK(start_engine(common));
  const std::optional<std::string> path = tuning_path();
  if (!path) {
    return Error{.exit = Exit::usage,
                 .rule = {},
                 .path = "--tune",
                 .where = {},
                 .what = "no place for the measured speeds",
                 .got = "PARE_TUNING=off or no home folder",
                 .limit = "PARE_TUNING=FILE",
                 .limit_label = "expected"};
  }
  const cpu::Isa level = cpu::best_isa();
  Json lines = Json::array();
  PARE_TRY(const cpu::SparseTable table,
           cpu::measure_sparse_table(level, [&](const cpu::SparseKind& kind, int size_class, double ratio) {
             if (!common.json) {
               print_line(fmt::format("  {:<18} {:<6} {:.2f}x of dense", kind.name(),
                                      cpu::kSizeNames[size_class], ratio));
               return;
             }
             Json line = Json::object();
             line["kernel"] = kind.name();
             line["size"] = cpu::kSizeNames[size_class];
             line["ratio_to_dense"] = ratio;
             lines.push_back(std::move(line));
           }));
  PARE_CHECK(save_tuning(*path, level, table));
  if (!common.json) {
    print_line("written to " + *path);
    return Exit::ok;
  }
  Json json = Json::object();
  json["schema_version"] = 1;
  json["path"] = *path;
  json["cpu_level"] = cpu::isa_name(level);
  json["sparse_kernels"] = std::move(lines);
  print_json(json);
  return Exit::ok;
}

Result<Exit> run_doctor(const CommonOptions& common) {
  PARE_CHECK(start_engine(common));
  const auto gpus = list_gpus();
  const std::string gpu_reason = !gpus ? gpus.error().what : gpus->empty() ? why_no_gpu() : "";
  const std::string level(cpu::isa_name(cpu::best_isa()));
  if (common.json) {
    Json json = Json::object(), list = Json::array(), libraries = Json::object();
    json["schema_version"] = 1;
    json["version"] = kVersion;
    json["cpu_level"] = level;
    json["cpu_features"] = cpu::cpu_features();
    json["threads"] = thread_count();
    json["tuning"] = tuning_line();
    json["memory_available_bytes"] = Json(available_bytes());
    json["cuda_build"] = built_with_cuda();
    if (gpus) {
      for (const GpuInfo& gpu : *gpus) {
        Json row = Json::object();
        row["name"] = sanitize(gpu.name);
        row["compute_capability"] = gpu.compute_capability;
        row["total_bytes"] = Json(gpu.total_bytes);
        row["free_bytes"] = Json(gpu.free_bytes);
        row["driver"] = gpu.driver;
        list.push_back(std::move(row));
      }
    }
    json["gpus"] = std::move(list);
    json["gpu_note"] = gpu_reason;
    json["gpu_libraries"] = cuda::describe_libraries();
    for (const auto& [name, version] : library_versions()) libraries[name] = version;
    json["libraries"] = std::move(libraries);
    print_json(json);
    return Exit::ok;
  }
  print_line(std::string("pare ") + kVersion);
  print_line("  CPU kernels   " + level + " (this machine has: " + cpu::cpu_features() + ")");
  print_line("  threads       " + std::to_string(thread_count()));
  print_line("  tuning        " + tuning_line());
  print_line("  memory        " + format_bytes(available_bytes()) + " available");
  for (Backend* backend : installed_backends()) print_line("  backend       " + backend->description());
  if (gpus) {
    for (const GpuInfo& gpu : *gpus) print_line("  GPU           " + sanitize(gpu_line(gpu)));
  }
  if (!gpu_reason.empty()) print_line("  GPU           " + gpu_reason);
  if (gpus && !gpus->empty())
    print_line("                used where a command names it: --device cuda (auto stays on the CPU); " +
               cuda::describe_libraries());
  for (const auto& [name, version] : library_versions())
    print_line("  library       " + name + " " + version);
  return Exit::ok;
}

}  // namespace

void add_doctor(CLI::App& app, Commands& commands) {
  CLI::App* verb = app.add_subcommand(
      "doctor", "what pare found on this machine: CPU level, threads, memory, GPUs, libraries");
  auto tune = std::make_shared<bool>(false);
  verb->add_flag(
      "--tune", *tune,
      "measure where sparse kernels beat dense ones here, and keep the table for later runs (a minute)");
  add_common(verb, commands, true);
  commands.on(verb, [tune, &commands] {
    return *tune ? run_tune(commands.common()) : run_doctor(commands.common());
  });
}

}  // namespace pare::cli
