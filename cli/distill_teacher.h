// cli/distill_teacher.h: the teacher of a training run: beside the student, or from its cache, which is made
// first.
#pragma once

#include <memory>

#include "cli/distill_data.h"
#include "cli/distill_models.h"
#include "cli/process_group.h"
#include "distill/loss.h"
#include "distill/teacher.h"
#include "distill/teacher_cache_header.h"

namespace pare::cli {

struct TeacherCacheUse {
  TeacherCacheHeader header;
  bool was_made = false;  // in this run; else it was there
  double bytes_per_token() const;
};

// Bytes that open_teacher() will take in the end: weights and what a batch of so many tokens needs. 0 without
// one.
uint64_t expected_teacher_bytes(const DistillArguments& arguments, const DistillModels& models);

// What the cache of this run is; nothing is opened. Exit 2.
Result<TeacherCacheHeader> teacher_cache_header(const DistillArguments& arguments,
                                                const DistillModels& models, const DistillData& data,
                                                const LossConfig& loss);

// Makes the cache, or goes on with it, unless it is there. The teacher is gone again when it returns. limit:
// of the process; a teacher that does not fit whole goes block by block over many windows at a time. Only
// rank 0 writes. Exit 75 with what was made kept; 5, 6, 7 (NU16), 8.
Result<TeacherCacheUse> ensure_teacher_cache(const DistillArguments& arguments, const DistillModels& models,
                                             const DistillData& data, const LossConfig& loss, Device device,
                                             uint64_t limit, ProcessGroup& group);

// Null for a run that has none. The cache must be there. Exit 3, 4, 8.
Result<std::unique_ptr<Teacher>> open_teacher(const DistillArguments& arguments, const DistillModels& models,
                                              const DistillData& data, const LossConfig& loss, Device device);

}  // namespace pare::cli
