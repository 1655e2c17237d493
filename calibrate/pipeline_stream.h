// calibrate/pipeline_stream.h: one model with its activations on the way through a block; internal to
// calibrate.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "calibrate/activation_store.h"
#include "calibrate/block_pipeline.h"

namespace pare {

struct BlockPipeline::Stream {
  std::unique_ptr<Model> model;
  ActivationStore hidden;  // entering the block, later between its halves
  std::optional<ActivationStore> mixed,
      inner;  // inputs of the output projections (inner: slots of a mixture)

  const BlockConfig& shape(int index) const { return model->config().blocks[size_t(index)]; }
};

// H += x^T x for any number of rows.
void add_moment_of_rows(const Tensor& x, Tensor& moment, Workspace& workspace);

}  // namespace pare
