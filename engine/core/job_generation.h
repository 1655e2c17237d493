// engine/core/job_generation.h: what job.json, CURRENT and gen-<n>.json say, and which generation a resumed
// job continues from; internal to core, behind JobFolder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/core/job_store.h"

namespace pare {

inline constexpr int kJobFormat = 1;  // version of the layout of the folder

struct JobIdentityFile {
  std::string id;
  Json identity;
};
Json to_json(const JobIdentityFile& file);
Result<JobIdentityFile> read_identity(const JobStore& store);

struct JobCurrent {
  int64_t generation = 0;  // 0: nothing was committed yet
  bool published = false;
};
Json to_json(const JobCurrent& current, const std::string& id);

struct JobGeneration {
  int64_t number = 0;
  Json position;
  std::vector<Hash128> objects;  // ascending, each once
};
Json to_json(const JobGeneration& generation, const std::string& id);

struct JobProgress {
  JobGeneration generation;  // number 0 and position null when nothing was committed
  bool published = false;
  bool went_back = false;  // not the newest
  std::string damage;      // what was damaged and could be done without; empty when nothing was
};

// The newest generation that is whole, with all its objects: that of CURRENT, or the one before.
//   exit 3: none is whole; names the newest damaged file
//   exit 8: a file is that of another job
//   exit 5: a file cannot be read
Result<JobProgress> find_progress(const JobStore& store, const std::string& id);

}  // namespace pare
