// cli/distill_output.h: what was trained, as a model in the student's form and types.
#pragma once

#include "cli/distill_models.h"
#include "cli/distill_training.h"
#include "engine/core/manifest.h"
#include "engine/models/training_model.h"

namespace pare::cli {

// Bytes of the weights that write_trained() will write.
uint64_t expected_output_bytes(const DistillArguments& arguments, const DistillSettings& settings,
                               const DistillModels& models);

// Writes OUT: trained tensors in the type the student stores them in, or --dtype; codes exactly as they were
// trained (in a folder of safetensors the values they stand for); factors of --lora added in; pruned matrices
// of a .pare file sparse where that is smaller. The checksum of the output is committed before it appears.
// Gives the manifest as stored. Exit 2 (CL01, CL02), 5, 7 (NU03: a value overflows the type).
Result<Manifest> write_trained(const DistillArguments& arguments, const DistillSettings& settings,
                               const DistillModels& models, const TrainingModel& student, JobFolder& folder,
                               TrainingPosition& position, Manifest manifest);

}  // namespace pare::cli
