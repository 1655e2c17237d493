// engine/core/job_folder.h: the durable state of a long job (calibrate, quantize, prune, distil): stopped at
// any instruction and continued, it writes the bytes that an uninterrupted job would have written.
//
// A folder `<output>.pare-job` holds
//   lock           held (flock) for the life of the process; freed by the kernel on death
//   job.json       the identity: what must be the same for the job to go on; written once
//   CURRENT        number of the current generation, and whether the output was published
//   gen-<n>.json   what commit() number n stored: a position and the objects that it needs
//   obj/<hex>      objects, named by the XXH3-128 of their bytes
//   parts/         of a job of several steps: what each has written, "1.pare", and its own job folder
//   events.jsonl   a log for people; never read back
//   train.jsonl    of training: the log of its steps; the output never depends on it
// The JSON files carry a checksum of themselves. docs/jobs.md has the order of writes and what each fault
// does.
//
//   PARE_TRY(JobFolder job, JobFolder::open(path, mode));     // quick: the lock, and is there a job?
//   unless resuming: PARE_CHECK(check_output(...));           // now nobody else can finish this job
//   PARE_CHECK(job.start(identity));                          // creates the job, or finds its last commit
//   for (unit = unit_after(job.position()); ...) {
//     PARE_TRY(const Hash128 states, job.put(bytes));
//     PARE_CHECK(job.commit(position_after(unit, states), {states, ...}));
//     if (interrupted()) return job.interrupted_error();
//   }
//   write the output with FileWriter;  job.published();  job.remove() unless --keep-work
//
// A process may die between the output's appearance and published(). So commit a position that holds the
// checksum of the output before it appears: a resumed job that finds such a file knows it for its own.
//
// Not for use by several threads at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/json.h"
#include "engine/core/result.h"

namespace pare {

enum class JobMode {
  fresh,    // exit 8 when a job is there
  resume,   // --resume: exit 8 when none is there
  restart,  // --restart: discards the job that is there, if any
};

// The default of --work-dir: `<output>.pare-job`.
std::string job_path_of(const std::string& output);

class JobFolder {
 public:
  // Takes the lock without waiting and looks whether a job is there; reads and changes nothing else.
  //   exit 8: RL10 another process holds the folder; CL16 the mode does not fit what is there
  //   exit 2: CL17 fresh or restart, and the folder holds a file that no job wrote
  //   exit 5: the parent folder is missing or read-only, ...
  // A folder that was made here for a job that never starts is removed again.
  static Result<JobFolder> open(const std::string& path, JobMode mode);

  // `identity`: an object, nested as you like, whose leaves decide the result; without a member "job", which
  // is ours. Resume compares leaf by leaf, in order, then verifies the last commit with all its objects.
  //   exit 8: identity: <first leaf that differs, as "inputs[2].bytes">, with both values
  //   exit 3: job.json is damaged, or no generation is whole
  // Called once, before everything below. After an error the folder is as it was.
  Status start(const Json& identity);

  // With which identity the job that is there was started; before or after start(). For what cannot be had
  // again: the hash of data that came through a pipe (DT13), whose tokens the job has among its objects.
  //   exit 3: job.json is damaged; exit 8: there is no job
  Result<Json> stored_identity() const;

  // Both in one go.
  static Result<JobFolder> open(const std::string& path, const Json& identity, JobMode mode);

  JobFolder(JobFolder&&) noexcept;
  JobFolder& operator=(JobFolder&&) noexcept;
  ~JobFolder();  // gives the lock back; what was committed stays

  const std::string& path() const;
  std::string training_log_path() const;  // of train.jsonl
  const std::string& id() const;          // 32 hex digits, the hash of the identity
  bool resumed() const;                   // a commit was found
  const Json& position() const;           // what the last commit stored; null before the first
  int64_t generation() const;             // number of commits so far; 0 before the first
  bool went_back() const;  // the newest generation was damaged, the one before is used (with a warning)
  const std::string& damage() const;  // what was found damaged, for the report; empty when nothing was

  // Stores the parts one after another as one object, without copying them; its name is the XXH3-128 of all
  // bytes. An object that is already there is verified, not written again. It becomes durable with the next
  // commit(), and goes with the first commit() that leaves it unnamed by itself and the one before.
  Result<Hash128> put(std::span<const std::span<const std::byte>> parts);
  Result<Hash128> put(std::span<const std::byte> bytes);

  // An object, its checksum verified now; exit 3 naming the file when it is damaged or gone.
  Result<std::shared_ptr<const MappedFile>> get(const Hash128& object) const;

  // Where a job of several steps keeps what its steps write, made if it is missing: `<n>.pare`, with its
  // report and its job folder beside it. Whoever names such a file in a position keeps its checksum there.
  Result<std::string> parts_folder();

  // Makes `position` the one to continue from, with the objects that it needs (all put here, or named by the
  // commit before; exit 6 beyond the caps of JSON in limits.h). Two generations are kept; older ones and
  // objects that neither names are removed. After an error the commit before is intact, and this JobFolder
  // takes no further commits.
  Status commit(Json position, std::vector<Hash128> objects);

  // Records that the output is complete and durable under its final name.
  Status published();
  bool was_published() const;

  // Removes the job; the lock is given back. Deletes only what a job writes: a foreign file stays, with its
  // folder and a warning. Nothing else may be called afterwards.
  Status remove();

  // Adds one line to events.jsonl: "time" (UTC) and the members of `event`. Best effort: errors are ignored.
  void event(const Json& event);

  // Exit 75, to return after the commit that follows interrupted().
  Error interrupted_error() const;

 private:
  struct State;
  explicit JobFolder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pare
