// cli/distill_models.h: student and teacher of a training run, opened and checked against each other.
#pragma once

#include <memory>
#include <string>

#include "cli/distill_settings.h"
#include "engine/models/architecture.h"
#include "engine/models/weight_source.h"

namespace pare::cli {

struct DistillModels {
  std::shared_ptr<const WeightSource> student;
  std::shared_ptr<const WeightSource> teacher;  // null for finetune; the student itself with --qat alone
  ModelDescription student_model, teacher_model;
  StudentOrigin origin;
  std::string teacher_hash;             // of the teacher's files, 32 hex digits
  Json teacher_inputs = Json::array();  // as in manifests
  bool is_own_teacher() const { return student == teacher; }
};

// The student alone, so that a run without a teacher looks for none: MODEL, --student, --student-config, or
// the teacher. Errors: 3 or 4 when tokenizers or vocabularies differ (DT16, TK21), 7 for weights that are not
// finite, and those of opening models.
Result<DistillModels> open_distill_models(const DistillArguments& arguments, const CommonOptions& common);

// Bytes of the weights of a model while it is trained: masters, gradients, moments. From shapes.
uint64_t training_weight_bytes(const DistillArguments& arguments, const ModelDescription& model);

}  // namespace pare::cli
