// distill/teacher_cache.h: the k likeliest ids of a teacher for every token of a run's data, on disk, so that
// teacher and student are never in memory together, and a teacher runs once for many epochs (docs/methods.md,
// training).
//
//   PARE_TRY(writer, TeacherCacheWriter::open(folder, header, mode));
//   for (window = writer.next_window(); window < header.windows; ++window) {
//     PARE_CHECK(writer.put(window, logits, rows));            // once or in pieces, until the window is full
//     if (interrupted()) { PARE_CHECK(writer.checkpoint()); return writer.interrupted_error(); }
//   }
//   PARE_CHECK(writer.finish());
//
//   PARE_TRY(reader, TeacherCacheReader::open(folder, expected));
//   PARE_CHECK(reader.read(data.index_of(window), ids, log_probs));
//
// A window takes context x (4 + 2 k + about (2 + log2(V / k)) k / 8) bytes: 224 bytes per token with k = 64
// and a vocabulary of 49,152.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "distill/teacher_cache_header.h"
#include "engine/core/job_folder.h"
#include "engine/core/result.h"

namespace pare {

class TeacherCacheWriter {
 public:
  // `header`, with resolve() done, is the identity of a job in `<folder>.pare-job`, beside the members of
  // `identity`; `folder` is made when it is missing. What an earlier run of this job wrote is kept: parts are
  // verified, and next_window() is where it stood.
  //   exit 2: CL02 the cache is there already; exit 3: TC01, TC02 a part that is no longer what was written
  //   exit 8: as JobFolder::open() and start(): locked, no job or another one, a field that differs
  static Result<TeacherCacheWriter> open(const std::string& folder, const TeacherCacheHeader& header,
                                         JobMode mode, const Json& identity = Json::object());
  TeacherCacheWriter(TeacherCacheWriter&&) noexcept;
  TeacherCacheWriter& operator=(TeacherCacheWriter&&) noexcept;
  ~TeacherCacheWriter();

  const TeacherCacheHeader& header() const;
  int64_t next_window() const;  // the first that is not complete

  // The next `rows` rows of `window`, which is next_window(): f32 [rows, vocabulary] with `stride` values
  // between rows (0: vocabulary). Rows may go beyond the window: into the ones behind it. Rows are worked on
  // in parallel; the bytes do not depend on how they are split or on the threads. Exit 7 (NU16) a logit that
  // is not finite, with window and token; exit 5.
  Status put(int64_t window, const float* logits, int64_t rows, int64_t stride = 0);

  // Makes all complete windows durable; what was put of an unfinished one is dropped by a resumed run only.
  // Exit 5.
  Status checkpoint();

  // Exit 75, to return after checkpoint().
  Error interrupted_error() const;

  // All windows are there: the cache appears, and the job is gone. Exit 5.
  Status finish();

 private:
  struct State;
  explicit TeacherCacheWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

class TeacherCacheReader {
 public:
  // Checks the index, and of every part its length and the sums of its windows.
  //   exit 3: TC01 to TC03; exit 4: TC04; exit 5: a file is missing or unreadable
  //   exit 8: TC05 another teacher, data, vocabulary, context, k or temperature, with both values
  static Result<TeacherCacheReader> open(const std::string& folder, const TeacherCacheExpected& expected);
  TeacherCacheReader(TeacherCacheReader&&) noexcept;
  TeacherCacheReader& operator=(TeacherCacheReader&&) noexcept;
  ~TeacherCacheReader();

  const TeacherCacheHeader& header() const;
  double temperature() const;  // of the log-probabilities: what was expected, else that of the cache

  // Of each of the `context` tokens of a window: k ids, ascending, and log p at the temperature; both
  // [context, k]. Their probabilities and that of all other ids together add up to one. Safe from several
  // threads. Exit 3: TC02 a checksum, TC06 a record that no teacher wrote.
  Status read(int64_t window, int32_t* ids, float* log_probs) const;

 private:
  struct State;
  explicit TeacherCacheReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Whether there is a complete cache: an index.json.
bool teacher_cache_exists(const std::string& folder);

}  // namespace pare
