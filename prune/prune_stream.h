// prune/prune_stream.h: magnitude pruning of a whole model without data, tensor by tensor, from a source to a
// sink. Peak memory is the largest tensor with its scores.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "calibrate/block_job.h"
#include "engine/models/architecture.h"
#include "engine/models/weight_sink.h"
#include "prune/scores.h"
#include "prune/select.h"
#include "prune/target.h"

namespace pare {

// What a run will take, from shapes alone.
struct PrunePlan {
  uint64_t input_bytes = 0;
  uint64_t output_bytes = 0;       // weights as stored; file overhead excluded
  uint64_t peak_memory_bytes = 0;  // of a stream, beyond the program itself
  int64_t pruned_tensors = 0, kept_tensors = 0;
  int64_t parameters = 0, pruned_parameters = 0;  // pruned: those of matrices that lose some
  int64_t removed_parameters = 0;
};

// is_compact: matrices are written in their sparse form where that is smaller.
PrunePlan plan_pruning(const WeightSource& source, const ModelDescription& model,
                       const std::vector<std::optional<PruneTarget>>& targets, bool is_compact);

struct PruneStreamOptions {
  Scope scope = Scope::layer;
  bool is_global = false;  // one cut over all matrices; no matrix loses more than kMostSparse
  Normalisation normalisation = Normalisation::none;  // of a global cut
  bool is_compact = false;
  bool allow_empty = false;
};

// The weights that a global cut takes from each tensor, in the order of `model`; 0 where it has no target.
// All targets are unstructured and of the same share. Reads all of them several times.
Result<std::vector<int64_t>> global_counts(const WeightSource& source, const ModelDescription& model,
                                           const std::vector<std::optional<PruneTarget>>& targets,
                                           Normalisation normalisation);
// The same by any scores: scores_of(i) gives those of tensor i, f32 [out, in], as often as it is asked.
Result<std::vector<int64_t>> global_counts(const ModelDescription& model,
                                           const std::vector<std::optional<PruneTarget>>& targets,
                                           const std::function<Result<Tensor>(size_t tensor)>& scores_of);

// Prunes or copies every tensor of `model` in its order and records each in `manifest.tensors`. `advance` is
// called after each tensor with the bytes read. Exit 4 (CF12) for a tensor with codes, 7 (NU01, NU02, NU15).
Status prune_stream(const WeightSource& source, const ModelDescription& model,
                    const std::vector<std::optional<PruneTarget>>& targets, const PruneStreamOptions& options,
                    WeightSink& sink, Manifest& manifest,
                    const std::function<Status(uint64_t bytes)>& advance);

// The sparse form of a pruned matrix where it is smaller, with the fields of its entry; otherwise `data`
// stays.
Status compact(const TensorSpec& spec, const PruneTarget& target, WeightData& data, TensorRecord& record);

}  // namespace pare
