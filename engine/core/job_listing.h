// engine/core/job_listing.h: what a job folder holds, by name; internal to core, behind JobFolder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/core/hash.h"
#include "engine/core/io_calls.h"

namespace pare {

inline constexpr const char* kJobLock = "lock";
inline constexpr const char* kJobIdentity = "job.json";
inline constexpr const char* kJobCurrent = "CURRENT";
inline constexpr const char* kJobEvents = "events.jsonl";
inline constexpr const char* kJobTrainingLog = "train.jsonl";
inline constexpr const char* kJobObjects = "obj";
inline constexpr const char* kJobParts = "parts";
std::string generation_name(int64_t number);  // gen-<n>.json

struct JobListing {
  bool identity = false;                 // job.json
  bool current = false;                  // CURRENT
  bool has_objects_folder = false;       // obj/
  bool has_parts_folder = false;         // parts/
  std::vector<int64_t> generations;      // of gen-<n>.json, ascending
  std::vector<Hash128> objects;          // ascending
  std::vector<std::string> parts;        // of parts/: outputs of steps, "1.pare", and what lies beside them
  std::vector<std::string> part_jobs;    // of parts/: job folders of steps, "1.pare.pare-job"
  std::vector<std::string> temporaries;  // left by a killed process; "obj/...", "parts/..."
  std::string foreign;  // first name that no job writes, "obj/..." inside obj, likewise parts; empty when
                        // there is none

  // Something that a job needs, or that was a job once.
  bool has_job() const { return identity || !generations.empty(); }
};

// `folder` is the open job folder, `path` its name for messages. Exit 5 when it cannot be read.
Result<JobListing> list_job_folder(int folder, const std::string& path);

// The folder obj, never through a symlink; not open when there is none.
io::Descriptor open_job_objects(int folder, const std::string& path);

}  // namespace pare
