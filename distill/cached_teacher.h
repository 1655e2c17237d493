// distill/cached_teacher.h: a teacher that is read from its cache, and the pass that fills one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "distill/teacher.h"
#include "distill/teacher_cache.h"
#include "distill/training_data.h"

namespace pare {

// Serves losses of logits only, at the temperature of the reader. The cache is that of the data that is
// trained on (TeacherCacheExpected::input_hash), and its ids are all of the student. Exit 8 (TC05): its
// vocabulary is larger than the student's. check(): exit 8 another temperature, exit 4 intermediate states
// are wanted, exit 2 (CL13) reverse KL without a tail. start(): as TeacherCacheReader::read().
Result<std::unique_ptr<Teacher>> cached_teacher(std::shared_ptr<const TeacherCacheReader> reader,
                                                Device device, int64_t student_vocabulary);

struct CacheTeacherOptions {
  int64_t sequences = 8;     // that go through the teacher together
  int64_t chunk_rows = 512;  // logits are made for so many rows at a time
  double commit_seconds = 60.0;
  std::function<void(int64_t windows)> advance = {};  // windows done since the last call
};

// Runs `teacher` over every window of `data` that `writer` lacks, in order. The bytes of the cache depend on
// neither option when the teacher's logits do not. The header's vocabulary is at most the teacher's: the
// first ids count. Exit 75 after a commit when the user stops it; 7 (NU16) a logit that is not finite; errors
// of both. The caller then calls finish().
Status cache_teacher(Teacher& teacher, Device device, const TrainingData& data,
                     const CacheTeacherOptions& options, TeacherCacheWriter& writer);

}  // namespace pare
