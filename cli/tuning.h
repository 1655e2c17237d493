// cli/tuning.h: the speeds of sparse kernels on this machine, in a file of the user's cache folder.
//
// $XDG_CACHE_HOME/pare/tuning.json, or ~/.cache/pare/tuning.json; the environment variable PARE_TUNING names
// another file or is "off". Written by `pare doctor --tune` alone. A file of another CPU, another version of
// pare or another level is not used, and that is said.
#pragma once

#include <optional>
#include <string>

#include "engine/backends/cpu/sparse/choice.h"
#include "engine/core/result.h"

namespace pare::cli {

// None when PARE_TUNING is "off" or there is no home folder.
std::optional<std::string> tuning_path();

// Uses the file if there is one that fits; warns about one that does not. Before models are loaded.
void load_tuning(cpu::Isa level);
// What distinguishes results of the table in use from those of the built-in one: "" or "tuned 0123abcd".
std::string tuning_label();

// Exit 5 where the folder cannot be made or written.
Status save_tuning(const std::string& path, cpu::Isa level, const cpu::SparseTable& table);

}  // namespace pare::cli
