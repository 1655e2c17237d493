// cli/distill_data.h: what a training run reads: --data and --validate as streams of tokens, the windows it
// trains on, those it is validated on, and those of the report.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "calibrate/block_pipeline.h"
#include "cli/distill_options.h"
#include "distill/training_data.h"
#include "engine/models/model_config.h"
#include "engine/models/weight_source.h"

namespace pare::cli {

struct DistillData {
  std::shared_ptr<TrainingData> training;
  std::optional<TrainingData> validation;  // in reading order
  int64_t validation_windows = 0;          // of it that are used
  bool validation_is_held_out = false;     // of --data; else from --validate
  CalibrationWindows report;               // for the damage report; none with --no-report or --report-data
  std::string report_source;               // for people
  Json description = Json::object();       // for identity and manifest
};

// Tokens of `source`'s tokenizer, windows for `config`. Errors of load_data_stream(), TrainingData::create()
// and the token cache.
Result<DistillData> load_distill_data(const DistillArguments& arguments, const WeightSource& source,
                                      const ModelConfig& config, uint64_t seed);

}  // namespace pare::cli
