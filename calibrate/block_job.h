// calibrate/block_job.h: a step over all blocks of a model as a job that can be stopped and resumed. Pruning
// and quantization share it.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "calibrate/block_pipeline.h"
#include "engine/core/job_folder.h"
#include "engine/core/manifest.h"
#include "engine/models/weight_sink.h"

namespace pare {

// What a job asks of its step besides the editing.
class JobStep : public Step {
 public:
  // Manifest entries of the tensors changed since the last call, in the order they were changed.
  virtual std::vector<TensorRecord> take_records() = 0;
  // What must be kept of the block just done beside its tensors, for the writing or for later blocks; null:
  // nothing. A resumed step gets the notes of the blocks that were done before.
  virtual Json take_note() { return {}; }
  virtual Status resume_note(int block, const Json& note) {
    static_cast<void>(block), static_cast<void>(note);
    return {};
  }
  // Statistics that were collected before edit() changed what feeds this site, made to fit.
  virtual Status adapt(Site site, SiteStatistics& statistics) const {
    static_cast<void>(site), static_cast<void>(statistics);
    return {};
  }
};

struct BlockJob {
  std::shared_ptr<const WeightSource> source;
  ModelDescription model;
  // Whose activations cross moments are taken with; nothing: `source`. It may be wider (block_pipeline.h).
  std::shared_ptr<const WeightSource> original;
  CalibrationWindows windows;  // none: no activations are run
  // Instead of running activations: what the original model saw, so that blocks do not see the errors of
  // earlier ones. The second moment of the result may be changed.
  std::function<Result<SiteStatistics>(int block, Site site, StatisticSet wanted)> saved_statistics;
  uint64_t memory_limit = 0;
  Device device = Device::cpu();  // where activations are run, and moments solved
  uint64_t device_limit = 0;      // bytes of it, for a GPU
  std::function<void(int block)> block_done = [](int) {};
  // After each chunk of activations; an error ends the job at once, keeping the last commit.
  std::function<Status(int64_t tokens)> advance = [](int64_t) { return Status(); };
};

struct BlockJobResult {
  uint64_t spilled_bytes = 0;
  int first_block = 0;  // where the job was resumed
};

// What was decided before the first block (chosen bits, sparsities); null when nothing was. Kept in every
// position.
Result<Json> job_decision(const JobFolder& folder);
Status commit_decision(JobFolder& folder, Json decision);

// What was measured on the whole model before anything was changed, whole or as far as it got: a note, and
// the objects that hold the numbers. Kept in every position from then on. Null before that.
struct JobMeasurement {
  Json note;
  std::vector<Hash128> objects;
};
Result<JobMeasurement> job_measurement(const JobFolder& folder);
Status commit_measurement(JobFolder& folder, JobMeasurement measurement);

// The checksum of the output, committed just before it appears; empty before that. A resumed job knows by it
// that a file under the final name is its own.
Result<std::string> job_output(const JobFolder& folder);
Status commit_output(JobFolder& folder, std::string checksum);

// Runs the step over all blocks that the job has not done yet, with a commit after each. Exit 75 after a
// commit when a stop signal came.
Result<BlockJobResult> run_blocks(const BlockJob& job, JobStep& step, JobFolder& folder);

// Notes of the blocks done so far, and the model as the job has changed it (views of the job's objects).
Result<std::vector<Json>> block_notes(const JobFolder& folder);
Result<std::shared_ptr<EditedSource>> finished_source(const BlockJob& job, const JobFolder& folder);

// Manifest entry of a tensor that stays as it is.
TensorRecord copied_record(const StoredTensor& stored);

// Last look at every tensor before it is written: another form (codes of an embedding, a sparse form), with
// the entry that goes with it.
using Converter = std::function<Status(const TensorSpec& spec, WeightData& data, TensorRecord& record)>;

// Writes the whole model in its order: changed tensors from the job, the rest as it is; records each in
// `manifest.tensors`.
Status write_changed(const BlockJob& job, const JobFolder& folder, const Converter& convert, WeightSink& sink,
                     Manifest& manifest);

}  // namespace pare
