#include "cli/forward_difference.h"

#include <algorithm>
#include <cmath>

#include "engine/models/model.h"

namespace pare::cli {
namespace {

constexpr int64_t kTokens = 8;

Result<Tensor> logits_of(const std::shared_ptr<const WeightSource>& source, Device device,
                         const Batch& batch) {
  PARE_TRY(const auto model, Model::open(source, device));
  const ModelConfig& config = model->config();
  PARE_TRY(const Tensor ids, Tensor::allocate(DType::i32, {batch.tokens()}, device));
  for (int64_t i = 0; i < batch.tokens(); ++i) {
    // Spread over the vocabulary; which ones does not matter.
    ids.mutable_data<int32_t>()[i] = int32_t((i + 1) * config.vocabulary_size / (batch.tokens() + 2));
  }
  PARE_TRY(Workspace workspace, Workspace::reserve(model->workspace_bytes(batch, batch.tokens()), device));
  PARE_TRY(Tensor hidden, Tensor::allocate(DType::f32, {batch.tokens(), config.hidden_size}, device));
  PARE_CHECK(model->load_embedding());
  PARE_CHECK(model->embed(ids, batch, hidden, workspace));
  for (int block = 0; block < int(config.block_count()); ++block) {
    PARE_CHECK(model->load_block(block));
    model->prefetch_block(block + 1);
    PARE_CHECK(model->run_block(block, batch, hidden, nullptr, workspace));
    model->drop_block(block);
  }
  PARE_CHECK(model->load_head());
  PARE_TRY(Tensor logits, Tensor::allocate(DType::f32, {batch.tokens(), config.vocabulary_size}, device));
  PARE_CHECK(model->run_head(hidden, logits, workspace));
  return logits;
}

}  // namespace

Result<ForwardDifference> forward_difference(const std::shared_ptr<const WeightSource>& first,
                                             const std::shared_ptr<const WeightSource>& second,
                                             Device device) {
  PARE_TRY(const ModelDescription model, describe_model(*first));
  const Batch batch{.sequences = 1,
                    .tokens_per_sequence = std::min(kTokens, model.config.max_positions),
                    .first_position = 0};
  PARE_TRY(const Tensor a, logits_of(first, device, batch));
  PARE_TRY(const Tensor b, logits_of(second, device, batch));
  ForwardDifference difference{.tokens = batch.tokens()};
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double x = a.data<float>()[i], y = b.data<float>()[i];
    difference.largest = std::max(difference.largest, std::abs(x - y));
    difference.largest_logit = std::max(difference.largest_logit, std::abs(x));
  }
  return difference;
}

}  // namespace pare::cli
