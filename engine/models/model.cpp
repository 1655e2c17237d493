#include "engine/models/model.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>

#include "engine/core/assert.h"
#include "engine/models/block.h"
#include "engine/models/loader.h"
#include "engine/models/rope.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/ops.h"
#include "engine/tensor/transfer.h"

namespace pare {

// One table per head size: structured pruning may leave blocks unequal.
struct Model::Positions {
  std::vector<RotaryTable> tables;

  RotaryTable* table(int64_t head_dim) {
    for (RotaryTable& table : tables)
      if (table.head_dim() == head_dim) return &table;
    return nullptr;
  }
};

Model::Model() = default;
Model::~Model() {
  forget_prefetched();  // the files may go
}

Result<KvQuant> stored_kv(const WeightSource& source) {
  const Json* found = source.manifest() != nullptr ? source.manifest()->options.find("kv") : nullptr;
  if (found == nullptr) return KvQuant{};
  if (const auto kv = found->is_string() ? KvQuant::parse(found->as_string()) : std::nullopt; kv) return *kv;
  return Error{.exit = Exit::malformed,
               .rule = "PK30",
               .path = source.path(),
               .where = "manifest.options.kv",
               .what = "not a form of keys and values",
               .got = found->dump(),
               .limit = "none, int8 or int4",
               .limit_label = "expected"};
}

Result<std::unique_ptr<Model>> Model::open(std::shared_ptr<const WeightSource> source, Device device,
                                           std::optional<KvQuant> kv) {
  if (!has_backend(device))
    return Error{
        .exit = Exit::unsupported, .path = device.name(), .what = "models do not run on this device"};
  std::unique_ptr<Model> model(new Model());
  model->source_ = std::move(source);
  model->device_ = device;
  PARE_TRY(model->description_, describe_model(*model->source_));
  if (!kv) {
    PARE_TRY(kv, stored_kv(*model->source_));
  }
  model->description_.config.kv = *kv;
  for (const BlockConfig& block : model->config().blocks) {
    if (kv->is_none() || block.head_dim <= kKvHeadDim) continue;
    return Error{.exit = Exit::unsupported,
                 .path = model->source_->path(),
                 .where = "head_dim",
                 .what = "heads are too large for keys and values as codes; use --kv none",
                 .got = std::to_string(block.head_dim),
                 .limit = std::to_string(kKvHeadDim)};
  }
  const ModelConfig& config = model->config();
  model->blocks_.resize(size_t(config.block_count()));
  model->positions_ = std::make_unique<Positions>();
  if (config.positions == ModelConfig::Positions::rotary) {
    std::set<int64_t> sizes;
    for (const BlockConfig& block : config.blocks) sizes.insert(block.head_dim);
    for (const int64_t size : sizes)
      model->positions_->tables.emplace_back(config.rope, size, config.max_positions, device);
  }
  return model;
}

Status Model::load_all() {
  PARE_CHECK(load_embedding());
  for (int i = 0; i < int(config().block_count()); ++i) PARE_CHECK(load_block(i));
  return load_head();
}

Status Model::load_embedding() {
  embedding_wanted_ = true;
  if (embedding_.defined()) return {};
  const Loader loader(*source_, description_, device_);
  const WeightUse use = config().tied_head ? WeightUse::both : WeightUse::gather;
  PARE_TRY(embedding_, loader.weight(Role::embedding, -1, use));
  if (config().positions == ModelConfig::Positions::learned) {
    PARE_TRY(position_table_, loader.weight(Role::positions, -1, WeightUse::gather));
  }
  return {};
}

Status Model::load_block(int index) {
  PARE_ASSERT(index >= 0 && index < int(config().block_count()), "[model] block {} of {}", index,
              config().block_count());
  std::unique_ptr<Block>& block = blocks_[size_t(index)];
  if (block != nullptr) return {};
  PARE_TRY(block, Block::load(*source_, description_, index, device_));
  return {};
}

Status Model::load_head() {
  const int end = int(config().block_count());
  const Loader loader(*source_, description_, device_);
  if (!head_weight().defined()) {
    if (config().tied_head) {
      const bool wanted = embedding_wanted_;
      PARE_CHECK(load_embedding());
      embedding_wanted_ = wanted;
    } else {
      PARE_TRY(head_, loader.weight(Role::lm_head, end));
    }
  }
  if (final_norm_ == nullptr) {
    PARE_TRY(Norm norm, loader.norm(Role::final_norm, Role::final_norm_bias, end));
    final_norm_ = std::make_unique<Norm>(std::move(norm));
  }
  return {};
}

void Model::drop_block(int index) {
  blocks_[size_t(index)] = nullptr;
  Loader(*source_, description_, device_).release(index);
}

void Model::drop_embedding() {
  embedding_wanted_ = false;
  if (config().tied_head && final_norm_ != nullptr) return;
  embedding_ = Weight();
  position_table_ = Weight();
  Loader(*source_, description_, device_).release(-1);
}

void Model::drop_head() {
  final_norm_ = nullptr;
  head_ = Weight();
  Loader(*source_, description_, device_).release(int(config().block_count()));
  if (config().tied_head && !embedding_wanted_) drop_embedding();
}

bool Model::block_loaded(int index) const {
  return blocks_[size_t(index)] != nullptr;
}

uint64_t Model::loaded_bytes() const {
  uint64_t bytes = embedding_.size_bytes() + position_table_.size_bytes() + head_.size_bytes();
  if (final_norm_ != nullptr) bytes += final_norm_->size_bytes();
  for (const auto& block : blocks_)
    if (block != nullptr) bytes += block->size_bytes();
  return bytes;
}

Status Model::reserve_positions(int64_t positions) {
  for (RotaryTable& table : positions_->tables) PARE_CHECK(table.reserve(positions));
  return {};
}

const RotaryTable* Model::rotary_table(int64_t head_dim) const {
  return positions_->table(head_dim);
}

size_t Model::workspace_bytes(const Batch& batch, int64_t logit_rows) const {
  size_t bytes = 0;
  if (config().positions == ModelConfig::Positions::learned)
    bytes = Workspace::bytes_for(DType::i32, {batch.tokens()});
  if (!device_.is_host()) bytes += Workspace::bytes_for(DType::i32, {batch.tokens()});  // ids
  for (int i = 0; i < int(config().block_count()); ++i) {
    const std::unique_ptr<Block>& loaded = blocks_[size_t(i)];
    bytes = std::max(bytes, loaded != nullptr
                                ? loaded->workspace_bytes(batch)
                                : Block::plan(*source_, description_, i, device_)->workspace_bytes(batch));
  }
  if (logit_rows > 0) {
    const Loader loader(*source_, description_, device_);
    const Weight planned = config().tied_head ? loader.planned(Role::embedding, -1)
                                              : loader.planned(Role::lm_head, int(config().block_count()));
    const Weight& head = head_weight().defined() ? head_weight() : planned;
    const size_t normed = LinearReaders({&head}).norm_input_bytes(logit_rows, config().hidden_size);
    bytes = std::max(bytes, normed + head.workspace_bytes(logit_rows));
  }
  return bytes;
}

Status Model::check_vocabulary(const Tensor& ids) const {
  const int32_t* values = ids.data<int32_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    if (values[i] >= 0 && values[i] < config().vocabulary_size) continue;
    return Error{.exit = Exit::malformed,
                 .path = source_->path(),
                 .where = fmt::format("token {}", i),
                 .what = "id outside the vocabulary",
                 .got = std::to_string(values[i]),
                 .limit = std::to_string(config().vocabulary_size - 1)};
  }
  return {};
}

Status Model::embed(const Tensor& ids, const Batch& batch, Tensor& hidden, Workspace& workspace) {
  PARE_ASSERT(embedding_.defined(), "[model] the embedding is not loaded");
  PARE_ASSERT(ids.numel() == batch.tokens(), "[model] {} ids for {} tokens", ids.numel(), batch.tokens());
  const Workspace::Scope scope(workspace);
  Tensor own = ids;
  if (ids.device().is_host()) {
    PARE_CHECK(check_vocabulary(ids));
    if (device_.is_host()) {
      own = ids.on(device_);
    } else {
      own = workspace.take(DType::i32, {batch.tokens()});
      PARE_CHECK(copy_into(ids.reshaped({batch.tokens()}), own));
    }
  }
  embedding_.gather(own, float(config().embedding_scale), /*accumulate=*/false, hidden);
  if (config().positions != ModelConfig::Positions::learned) return {};

  const int64_t last = config().position_offset + batch.first_position + batch.tokens_per_sequence;
  if (last > position_table_.out())
    return Error{.exit = Exit::usage,
                 .path = source_->path(),
                 .where = "positions",
                 .what = "sequence longer than the model's table of positions",
                 .got = std::to_string(batch.first_position + batch.tokens_per_sequence),
                 .limit = std::to_string(position_table_.out() - config().position_offset)};
  Tensor positions = workspace.take(DType::i32, {batch.tokens()});
  ops::positions(config().position_offset + batch.first_position, batch.tokens_per_sequence, positions);
  position_table_.gather(positions, 1.0f, /*accumulate=*/true, hidden);
  return {};
}

Status Model::run_block(int index, const Batch& batch, Tensor& hidden, BlockCache* cache,
                        Workspace& workspace) {
  PARE_ASSERT(block_loaded(index), "[model] block {} is not loaded", index);
  PARE_ASSERT(hidden.shape().rank() == 2 && hidden.size(0) == batch.tokens() &&
                  hidden.size(1) == config().hidden_size,
              "[model] hidden {} for {} tokens", hidden.shape().text(), batch.tokens());
  if (batch.tokens() == 0) return {};
  RotaryTable* rotary = positions_->table(config().blocks[size_t(index)].head_dim);
  if (rotary != nullptr) PARE_CHECK(rotary->reserve(batch.first_position + batch.tokens_per_sequence));
  return blocks_[size_t(index)]->forward(batch, rotary, cache, hidden, workspace);
}

Status Model::produce(int index, Site site, const Batch& batch, const Tensor& from, Tensor& x,
                      Workspace& workspace) {
  PARE_ASSERT(block_loaded(index), "[model] block {} is not loaded", index);
  const BlockConfig& shape = config().blocks[size_t(index)];
  if (!device_.is_host() && site == Site::mlp_out && shape.is_mixture())
    return Error{
        .exit = Exit::unsupported,
        .path = source_->path(),
        .where = fmt::format("block {}", index),
        .what = "inputs of the experts of a mixture are looked at on the CPU only; use --device cpu"};
  RotaryTable* rotary = positions_->table(shape.head_dim);
  if (rotary != nullptr) PARE_CHECK(rotary->reserve(batch.tokens_per_sequence));
  blocks_[size_t(index)]->produce(site, batch, rotary, from, x, workspace);
  return {};
}

void Model::consume(int index, Site site, const Tensor& x, Tensor& hidden, Workspace& workspace) const {
  blocks_[size_t(index)]->consume(site, x, hidden, workspace);
}

void Model::expert_output(int index, int expert, const Tensor& inner, Tensor& out,
                          Workspace& workspace) const {
  blocks_[size_t(index)]->expert_output(expert, inner, out, workspace);
}

int64_t Model::site_channels(int index, Site site) const {
  return blocks_[size_t(index)]->site_channels(site);
}

Status Model::reload(int index, Role role, int expert) {
  PARE_ASSERT(block_loaded(index), "[model] block {} is not loaded", index);
  return blocks_[size_t(index)]->reload(*source_, description_, index, role, device_, expert);
}

Status Model::attention_parts(int index, const Batch& batch, const Tensor& hidden, AttentionParts& parts,
                              Workspace& kept, Workspace& workspace) {
  PARE_ASSERT(block_loaded(index), "[model] block {} is not loaded", index);
  RotaryTable* rotary = positions_->table(config().blocks[size_t(index)].head_dim);
  if (rotary != nullptr) PARE_CHECK(rotary->reserve(batch.tokens_per_sequence));
  parts = blocks_[size_t(index)]->attention_parts(hidden, batch, rotary, kept, workspace);
  return {};
}

size_t Model::attention_bytes(int index, const Batch& batch) const {
  const std::unique_ptr<Block>& loaded = blocks_[size_t(index)];
  if (loaded != nullptr) return loaded->attention_bytes(batch);
  const BlockConfig& block = config().blocks[size_t(index)];
  size_t bytes = Block::plan(*source_, description_, index, device_)->attention_bytes(batch);
  if (config().query_key_norm)  // which a block without values does not know of
    bytes += Workspace::bytes_for(DType::f32, {batch.tokens(), block.heads * block.head_dim}) +
             Workspace::bytes_for(DType::f32, {batch.tokens(), block.kv_heads * block.head_dim});
  return bytes;
}

Status Model::run_head(const Tensor& rows, Tensor& logits, Workspace& workspace) {
  PARE_ASSERT(final_norm_ != nullptr && head_weight().defined(), "[model] the head is not loaded");
  PARE_ASSERT(logits.size(0) == rows.size(0), "[model] {} rows, {} logits", rows.size(0), logits.size(0));
  if (rows.size(0) == 0) return {};
  const Workspace::Scope scope(workspace);
  const LinearInput normed = LinearReaders({&head_weight()}).input(*final_norm_, rows, workspace);
  head_weight().multiply(normed, /*accumulate=*/false, logits, workspace);
  if (config().logit_softcap > 0.0) ops::softcap(logits, float(config().logit_softcap));
  return {};
}

}  // namespace pare
