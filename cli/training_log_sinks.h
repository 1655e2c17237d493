// cli/training_log_sinks.h: the ways in which a training log tells; internal to cli/training_log.
#pragma once

#include <memory>

#include "cli/training_log.h"
#include "engine/core/append_file.h"
#include "formats/tensorboard/event_file.h"

namespace pare::cli {

// On a terminal one line that is redrawn; elsewhere, with -v, a message now and then.
std::unique_ptr<TrainingSink> progress_sink();
// One JSON object per line, written when it happens; members in docs/training.md.
std::unique_ptr<TrainingSink> json_lines_sink(AppendFile file);
std::unique_ptr<TrainingSink> tensorboard_sink(EventFile file);

// What the line on a terminal says.
std::string progress_text(const TrainingStart& start, const StepReport& report, const TrainingRate& rate,
                          const std::optional<TrainingValidation>& validation);

// Seconds since 1970, for logs.
double wall_time();

}  // namespace pare::cli
