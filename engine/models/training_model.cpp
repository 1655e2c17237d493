#include "engine/models/training_model.h"

#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <set>

#include "engine/core/assert.h"
#include "engine/models/block.h"
#include "engine/models/loader.h"
#include "engine/models/weight_training.h"
#include "engine/tensor/training_ops.h"
#include "engine/tensor/transfer.h"

namespace pare {

struct TrainingModel::State {
  State(std::shared_ptr<const WeightSource> weights, Device on, const TrainingForm& form)
      : source(std::move(weights)), device(on), set(form, on) {}

  std::shared_ptr<const WeightSource> source;
  Device device;
  ModelDescription description;
  TrainingSet set;
  Weight embedding, positions, head;
  std::vector<std::unique_ptr<Block>> blocks;
  std::optional<Norm> final_norm;
  std::vector<RotaryTable> rotary;

  // Activations: hidden states and what blocks keep, taken again for every batch.
  bool keeps_blocks = false;
  Batch reserved = {}, batch = {};
  std::optional<Workspace> kept, scratch;
  std::optional<Workspace::Scope> kept_scope;
  Tensor ids, position_ids;
  std::vector<Tensor> hidden;
  std::vector<BlockActivations> activations;  // of all blocks, where they are kept
  // Else those of the block that ran last, behind the hidden states.
  std::optional<Workspace::Scope> last_scope;
  BlockActivations last;
  int last_index = -1;
  size_t head_bytes = 0;

  RotaryTable* rotary_of(int index) {
    for (RotaryTable& table : rotary)
      if (table.head_dim() == description.config.blocks[size_t(index)].head_dim) return &table;
    return nullptr;
  }
  // Runs a block and keeps its activations until the next one runs. The workspace is a stack, and blocks may
  // differ.
  void run_alone(int index, Tensor& out) {
    last_scope.reset();
    last_scope.emplace(*kept);
    last = blocks[size_t(index)]->take_activations(batch, *kept);
    last_index = index;
    blocks[size_t(index)]->forward_training(hidden[size_t(index)], batch, rotary_of(index), last, out,
                                            *scratch);
  }
  const BlockActivations& activations_of(int index) {
    if (keeps_blocks) return activations[size_t(index)];
    if (last_index != index) {
      const Workspace::Scope scope(*scratch);
      Tensor again = scratch->take(DType::f32, hidden[size_t(index)].shape());
      run_alone(index, again);
    }
    return last;
  }
  Status take(const Batch& wanted);
  size_t kept_bytes(const Batch& largest, bool keeps) const;
  size_t scratch_bytes(const Batch& largest) const;
};

TrainingModel::TrainingModel() = default;
TrainingModel::~TrainingModel() = default;

Result<std::unique_ptr<TrainingModel>> TrainingModel::open(std::shared_ptr<const WeightSource> source,
                                                           Device device, const TrainingForm& form) {
  if (!ops::can_train(device))
    return Error{
        .exit = Exit::unsupported, .path = device.name(), .what = "models cannot be trained on this device"};
  std::unique_ptr<TrainingModel> model(new TrainingModel());
  model->state_ = std::make_unique<State>(std::move(source), device, form);
  State& s = *model->state_;
  PARE_TRY(s.description, describe_model(*s.source));
  const ModelConfig& config = s.description.config;
  const int end = int(config.block_count());
  for (const BlockConfig& block : config.blocks) {
    if (device.is_host() || !block.is_mixture()) continue;
    return Error{.exit = Exit::unsupported,
                 .path = s.source->path(),
                 .what = "mixtures of experts are trained on hosts only; use --device cpu",
                 .got = device.name()};
  }
  const Loader loader(*s.source, s.description, device, &s.set);
  PARE_TRY(s.embedding,
           loader.weight(Role::embedding, -1, config.tied_head ? WeightUse::both : WeightUse::gather));
  if (config.positions == ModelConfig::Positions::learned) {
    PARE_TRY(s.positions, loader.weight(Role::positions, -1, WeightUse::gather));
  } else {
    std::set<int64_t> sizes;
    for (const BlockConfig& block : config.blocks) sizes.insert(block.head_dim);
    for (const int64_t size : sizes) s.rotary.emplace_back(config.rope, size, config.max_positions, device);
  }
  for (int i = 0; i < end; ++i) {
    PARE_TRY(std::unique_ptr<Block> block, Block::load(*s.source, s.description, i, device, &s.set));
    s.blocks.push_back(std::move(block));
  }
  PARE_TRY(s.final_norm, loader.norm(Role::final_norm, Role::final_norm_bias, end));
  if (!config.tied_head) {
    PARE_TRY(s.head, loader.weight(Role::lm_head, end));
  }
  for (const auto& [name, training] : s.set.matrices) {
    if (training->transform == nullptr || !training->transform->changes_inputs()) continue;
    const TensorSpec* spec = s.description.find(name);
    if (spec->expert < 0) continue;
    return Error{.exit = Exit::unsupported,
                 .path = s.source->path(),
                 .where = name,
                 .what = "rounded inputs of experts are not trained"};
  }
  return model;
}

const ModelDescription& TrainingModel::description() const {
  return state_->description;
}
Device TrainingModel::device() const {
  return state_->device;
}
const WeightSource& TrainingModel::source() const {
  return *state_->source;
}
const ParameterList& TrainingModel::parameters() const {
  return state_->set.parameters;
}
const Norm& TrainingModel::final_norm() const {
  return *state_->final_norm;
}
const Weight& TrainingModel::head() const {
  return config().tied_head ? state_->embedding : state_->head;
}

int64_t TrainingModel::parameter_count() const {
  int64_t count = 0;
  for (const auto& parameter : parameters()) count += parameter->value.numel();
  return count;
}

void TrainingModel::clear_gradients() {
  for (const auto& [name, training] : state_->set.matrices) training->clear_gradients();
  for (const auto& parameter : parameters()) {
    if (!parameter->is_matrix()) clear(parameter->gradient);
  }
}

void TrainingModel::finish_gradients() {
  for (const auto& [name, training] : state_->set.matrices) training->finish_gradients();
}

Status TrainingModel::refresh() {
  for (const auto& [name, training] : state_->set.matrices) PARE_CHECK(training->refresh());
  return {};
}

size_t TrainingModel::State::kept_bytes(const Batch& largest, bool keeps) const {
  const size_t stream = Workspace::bytes_for(DType::f32, {largest.tokens(), description.config.hidden_size});
  size_t bytes = 2 * Workspace::bytes_for(DType::i32, {largest.tokens()}) + (blocks.size() + 1) * stream;
  size_t largest_block = 0, all_blocks = 0;
  for (const auto& block : blocks) {
    const size_t own = block->activation_bytes(largest);
    largest_block = std::max(largest_block, own);
    all_blocks += own;
  }
  return bytes + (keeps ? all_blocks : largest_block);
}

size_t TrainingModel::State::scratch_bytes(const Batch& largest) const {
  size_t bytes = 0;
  for (const auto& block : blocks) bytes = std::max(bytes, block->training_workspace_bytes(largest));
  const size_t stream = Workspace::bytes_for(DType::f32, {largest.tokens(), description.config.hidden_size});
  return std::max(head_bytes, bytes + stream);
}

void TrainingModel::set_head_bytes(size_t bytes) {
  state_->head_bytes = bytes;
}

uint64_t TrainingModel::activation_bytes(const Batch& largest, bool keeps_blocks) const {
  return state_->kept_bytes(largest, keeps_blocks) + state_->scratch_bytes(largest);
}

uint64_t TrainingModel::weight_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, training] : state_->set.matrices) bytes += training->size_bytes();
  for (const auto& [name, parameter] : state_->set.vectors) bytes += 2 * parameter->value.size_bytes();
  return bytes;
}

Status TrainingModel::reserve(const Batch& largest, bool keeps_blocks) {
  State& s = *state_;
  s.last_scope.reset();
  s.kept_scope.reset();
  s.last_index = -1;
  s.hidden.clear();
  s.activations.clear();
  s.kept.reset();
  s.scratch.reset();
  PARE_TRY(s.kept, Workspace::reserve(s.kept_bytes(largest, keeps_blocks), s.device));
  PARE_TRY(s.scratch, Workspace::reserve(s.scratch_bytes(largest), s.device));
  s.reserved = largest;
  s.keeps_blocks = keeps_blocks;
  for (RotaryTable& table : s.rotary) PARE_CHECK(table.reserve(largest.tokens_per_sequence));
  return {};
}

Status TrainingModel::State::take(const Batch& wanted) {
  PARE_ASSERT(kept.has_value(), "[training] forward() before reserve()");
  PARE_ASSERT(wanted.tokens() <= reserved.tokens() && wanted.first_position == 0,
              "[training] a batch of {} tokens from {}; {} are reserved", wanted.tokens(),
              wanted.first_position, reserved.tokens());
  batch = wanted;
  last_scope.reset();
  kept_scope.reset();
  kept_scope.emplace(*kept);
  activations.clear();
  last_index = -1;
  ids = kept->take(DType::i32, {batch.tokens()});
  position_ids = kept->take(DType::i32, {batch.tokens()});
  hidden.clear();
  for (size_t i = 0; i <= blocks.size(); ++i)
    hidden.push_back(kept->take(DType::f32, {batch.tokens(), description.config.hidden_size}));
  if (keeps_blocks) {
    for (const auto& block : blocks) activations.push_back(block->take_activations(batch, *kept));
  }
  for (RotaryTable& table : rotary) PARE_CHECK(table.reserve(batch.tokens_per_sequence));
  return {};
}

Status TrainingModel::forward(const Tensor& ids, const Batch& batch) {
  State& s = *state_;
  PARE_ASSERT(ids.numel() == batch.tokens() && batch.tokens() > 0, "[training] {} ids for {} tokens",
              ids.numel(), batch.tokens());
  for (int64_t i = 0; i < ids.numel(); ++i) {
    const int32_t id = ids.data<int32_t>()[i];
    if (id >= 0 && id < config().vocabulary_size) continue;
    return Error{.exit = Exit::malformed,
                 .path = s.source->path(),
                 .where = fmt::format("token {}", i),
                 .what = "id outside the vocabulary",
                 .got = std::to_string(id),
                 .limit = std::to_string(config().vocabulary_size - 1)};
  }
  PARE_CHECK(s.take(batch));
  PARE_CHECK(copy_into(ids.reshaped({ids.numel()}), s.ids));
  s.embedding.gather(s.ids, float(config().embedding_scale), /*accumulate=*/false, s.hidden[0]);
  if (config().positions == ModelConfig::Positions::learned) {
    const int64_t last = config().position_offset + batch.tokens_per_sequence;
    if (last > s.positions.out())
      return Error{.exit = Exit::usage,
                   .path = s.source->path(),
                   .where = "positions",
                   .what = "sequence longer than the model's table of positions",
                   .got = std::to_string(batch.tokens_per_sequence),
                   .limit = std::to_string(s.positions.out() - config().position_offset)};
    ops::positions(config().position_offset, batch.tokens_per_sequence, s.position_ids);
    s.positions.gather(s.position_ids, 1.0f, /*accumulate=*/true, s.hidden[0]);
  }
  for (size_t i = 0; i < s.blocks.size(); ++i) {
    if (s.keeps_blocks) {
      s.blocks[i]->forward_training(s.hidden[i], batch, s.rotary_of(int(i)), s.activations[i],
                                    s.hidden[i + 1], *s.scratch);
      continue;
    }
    s.run_alone(int(i), s.hidden[i + 1]);
  }
  return {};
}

const Tensor& TrainingModel::hidden(int index) const {
  PARE_ASSERT(size_t(index) < state_->hidden.size(), "[training] hidden state {} of {}", index,
              state_->hidden.size());
  return state_->hidden[size_t(index)];
}

Workspace& TrainingModel::workspace() {
  PARE_ASSERT(state_->scratch.has_value(), "[training] no workspace before reserve()");
  return *state_->scratch;
}

Status TrainingModel::attention_parts(int index, AttentionParts& parts) {
  parts = state_->activations_of(index).attention.parts;
  return {};
}

Status TrainingModel::backward(Tensor& dhidden, const BackwardHooks& hooks) {
  State& s = *state_;
  PARE_ASSERT(dhidden.shape() == output().shape(), "[training] gradient {} of {}", dhidden.shape().text(),
              output().shape().text());
  for (int i = int(s.blocks.size()) - 1; i >= 0; --i) {
    if (hooks.hidden) PARE_CHECK(hooks.hidden(i + 1, dhidden));
    const AttentionHook on_attention = [&](const AttentionParts& parts, AttentionParts& gradients) -> Status {
      return hooks.attention(i, parts, gradients);
    };
    const AttentionHook nobody;
    const BlockActivations& kept = s.activations_of(i);
    PARE_CHECK(s.blocks[size_t(i)]->backward(s.hidden[size_t(i)], s.batch, s.rotary_of(i), kept,
                                             hooks.attention ? on_attention : nobody, dhidden, *s.scratch));
  }
  if (hooks.hidden) PARE_CHECK(hooks.hidden(0, dhidden));
  if (config().positions == ModelConfig::Positions::learned)
    s.positions.gather_backward(s.position_ids, dhidden, 1.0f);
  s.embedding.gather_backward(s.ids, dhidden, float(config().embedding_scale));
  return {};
}

Result<WeightData> TrainingModel::stored(const TensorSpec& spec) const {
  const TrainingSet& set = state_->set;
  if (const auto found = set.matrices.find(spec.name); found != set.matrices.end())
    return found->second->stored();
  if (const auto found = set.vectors.find(spec.name); found != set.vectors.end()) {
    WeightData data;
    const Tensor& value = found->second->value;
    PARE_TRY(data.form, moved(value, value.device().is_host() ? value.device() : Device::cpu()));
    return data;
  }
  return state_->source->load(spec.name);
}

}  // namespace pare
