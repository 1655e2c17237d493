// calibrate/block_pipeline.h: drives a step through a model block by block, so that every block calibrates on
// what the compressed blocks before it produce.
//
// Peak memory is one block, its statistics, one chunk of activations, and the hidden states of all samples as
// far as the ceiling allows (the rest lies on disk). Results do not depend on the ceiling, on threads, or on
// where the walk was interrupted.
//
// While a block is worked on, the next one is on its way (Model::prefetch_block) where both ceilings leave
// room for it beside all that is needed. On a GPU the block, its statistics and a chunk of activations lie
// there, hidden states as far as its ceiling allows; the rest as without one.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "calibrate/activation_store.h"
#include "calibrate/step.h"
#include "engine/tensor/workspace.h"

namespace pare {

// Equally long windows of tokens.
struct CalibrationWindows {
  std::vector<int32_t> ids;  // [samples * context]
  int64_t samples = 0, context = 0;
  std::string token_hash, text_hash;
};

struct PipelineOptions {
  uint64_t memory_limit = 0;       // bytes for the whole process; stores take what the rest leaves
  std::string spill_folder = ".";  // for scratch files
  Device device = Device::cpu();   // where the model runs
  uint64_t device_limit = 0;       // bytes on a GPU for the whole walk; stores take what the rest leaves
  bool original_stream = false;    // also run the uncompressed model, for cross moments
  // Called after each chunk of each pass with its tokens; an error ends the walk (a stop that cannot wait).
  std::function<Status(int64_t tokens)> advance = [](int64_t) { return Status(); };
  // End of the histogram of a site, from the largest magnitude that was seen here; processes that see parts
  // of the data agree on one.
  std::function<Result<double>(int block, Site site, double largest)> histogram_limit =
      [](int, Site, double largest) -> Result<double> { return largest; };
};

// Bytes that a pipeline needs whatever the ceiling: weights of the largest block, statistics, workspace.
uint64_t pipeline_floor_bytes(const Model& model, int64_t context, bool original_stream);

// The same of a GPU, beside the stores: also what solving one matrix takes. `model` is on that GPU.
uint64_t pipeline_device_bytes(const Model& model, int64_t context, bool original_stream);

class BlockPipeline {
 public:
  // `source` is what the step edits; `original` may be wider than it (its hidden size was cut). A ceiling
  // below what is used plus pipeline_floor_bytes() puts all activations on disk; callers refuse ceilings that
  // nothing fits. Exit 3, 4, 5, 6.
  static Result<std::unique_ptr<BlockPipeline>> create(std::shared_ptr<EditedSource> source,
                                                       std::shared_ptr<const WeightSource> original,
                                                       CalibrationWindows windows, PipelineOptions options);
  ~BlockPipeline();

  int block_count() const;
  Model& model();
  const CalibrationWindows& windows() const { return windows_; }

  // Hidden states of all samples from the embedding; or (resume) as an interrupted walk left them.
  Status embed();
  // Applies the step to block `index`; blocks come in order. Exit 7 (NU06) with block, site and sample for
  // activations that are not finite; 4 for a mixture of experts when the step does not take experts. The
  // block's weights are dropped afterwards, the edits stay in the source.
  Status run_block(int index, Step& step);
  // Statistics of the unchanged model at all sites: the same walk without a step. Exit 4 for a mixture of
  // experts, whose last site has statistics per expert.
  Status observe_block(int index, const std::function<StatisticSet(Site)>& wanted,
                       std::map<Site, SiteStatistics>& statistics);

  // Runs the unchanged block and shows what entered and left it, f32 [tokens, hidden], chunk by chunk. Rows
  // are the tokens of whole windows in order.
  Status pass_block(int index, const std::function<Status(const Tensor& before, const Tensor& after)>& look);

  // The same for the experts of a mixture, one after the other in each chunk: the shares that the tokens
  // which chose the expert give it, and its outputs for them, f32 [tokens, hidden]. Experts without tokens in
  // a chunk are left out. Exit 4 for a block that is no mixture.
  struct ExpertOutputs {
    int expert;
    std::span<const float> shares;
    const Tensor& outputs;
  };
  Status pass_experts(int index, const std::function<Status(const ExpertOutputs&)>& look);

  // Hidden states entering the next block, as chunks in order; of the original model after those of the
  // compressed one.
  int64_t state_chunks() const;
  Result<Tensor> state_chunk(int64_t index);
  Status restore_state_chunk(int64_t index, std::span<const std::byte> bytes);

  uint64_t spilled_bytes() const;
  Device device() const { return options_.device; }

 private:
  struct Stream;  // one model with its hidden states and stage inputs
  BlockPipeline();
  Status visit(int index, Stream& stream, Site site, int64_t chunk, Tensor& x);
  Status collect(int index, Site site, StatisticSet wanted, bool cross, SiteStatistics& statistics,
                 Tensor& cross_moment);
  Status compress_experts(int index, Step& step, BlockEdit& edit);
  Status collect_expert(int index, int expert, StatisticSet wanted, SiteStatistics& statistics);
  Status second_pass(int index, Site site, SiteStatistics& statistics);
  Status survey_pass(int index, const std::function<Status(Site site, int64_t chunk, const Tensor& x)>& look,
                     bool counts_progress);
  Status survey(int index, const std::function<StatisticSet(Site)>& wanted,
                std::map<Site, SiteStatistics>& statistics);
  Status finish_block(int index, Stream& stream);
  Status load_blocks(int index, bool original);  // and name the next
  Status fit_workspace();
  Result<Tensor> input_again(int index, Stream& stream, Site site, int64_t chunk);
  Batch batch(int64_t chunk) const;

  CalibrationWindows windows_;
  PipelineOptions options_;
  std::vector<int64_t> chunk_rows_;
  bool prefetches_ = false;
  int64_t samples_per_chunk_ = 1;
  std::shared_ptr<EditedSource> source_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Stream> original_;  // null without a cross moment
  Workspace workspace_;
};

}  // namespace pare
