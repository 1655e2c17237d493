// cli/training_log_file.h: reading back the JSON lines of a training run; internal to cli/training_log.
#pragma once

#include <cstdint>
#include <string>

#include "engine/core/result.h"
#include "evaluate/training_curve.h"

namespace pare::cli {

// Bytes of the log up to and with the last checkpoint whose generation is at most `generation`; 0 without
// such a one or without the file. Lines that are not ours (torn by a kill) are skipped. Exit 5.
Result<uint64_t> log_bytes_until(const std::string& path, int64_t generation);

// Exit 3 when no line of the log is a step or a start; 5.
Result<TrainingCurve> read_training_curve(const std::string& path);

// Whether its first line is the start of a training log.
bool is_training_log(const std::string& path);

}  // namespace pare::cli
