// distill/teacher_cache_header.h: what a teacher cache says of itself.
//
// A cache is a folder:
//   index.json       the header and the checksum of each part, with a checksum of itself; written last, so
//   that the
//                    cache exists exactly when this file does
//   part-<n>.topk    windows [n * part_windows, ...) (teacher_cache_part.h)
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "distill/top_k_record.h"
#include "engine/core/hash.h"
#include "engine/core/json.h"
#include "engine/core/result.h"
#include "engine/tensor/dtype.h"

namespace pare {

struct TeacherCacheHeader {
  std::string teacher_hash;  // of the files of the teacher, 32 hex digits
  std::string input_hash;    // TrainingData::input_hash(): of what the teacher was given
  int64_t vocabulary = 0;    // real ids
  int64_t context = 0;       // tokens of a window
  int64_t windows = 0;
  int64_t k = 64;
  double temperature = 1.0;
  DType logit_type = DType::f16;  // or bf16
  int64_t part_windows = 0;       // windows of a part; 0: chosen by resolve()

  TopKRecord record() const { return TopKRecord(vocabulary, k, temperature != 1.0); }
  int64_t parts() const { return (windows + part_windows - 1) / part_windows; }
  int64_t windows_of_part(int64_t part) const;
  uint64_t window_bytes() const { return uint64_t(record().bytes()) * uint64_t(context); }
  uint64_t total_bytes() const { return window_bytes() * uint64_t(windows); }

  // k lowered to the vocabulary, and parts of at most `part_bytes` chosen. Exit 2 (CL06): --top-k or
  // --temperature out of range.
  Status resolve(uint64_t part_bytes = uint64_t(64) << 20);

  Json to_json() const;  // identity of the job that makes the cache, too
  Hash128 hash() const;  // of the text of to_json()
};

// What somebody who reads a cache relies on. Empty or zero: whatever the cache says.
struct TeacherCacheExpected {
  std::string teacher_hash{};
  std::string input_hash{};
  int64_t vocabulary = 0, context = 0, windows = 0, k = 0;
  double temperature = 0.0;  // 1 always fits: every cache knows that distribution as well
};

struct TeacherCacheIndex {
  TeacherCacheHeader header;
  std::vector<Hash128> part_sums;

  std::string text() const;  // of index.json
};

// Exit 3: TC02 a checksum, TC03 a field, naming it; exit 4: TC04 a newer version.
Result<TeacherCacheIndex> read_teacher_cache_index(std::string_view text, const std::string& path);

// Exit 8 (TC05) naming the first field that differs, with both values.
Status compare_teacher_cache(const TeacherCacheHeader& header, const TeacherCacheExpected& expected,
                             const std::string& path);

std::string teacher_cache_index_path(const std::string& folder);
std::string teacher_cache_part_path(const std::string& folder, int64_t part);

}  // namespace pare
