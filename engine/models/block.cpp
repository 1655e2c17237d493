#include "engine/models/block.h"

#include <algorithm>
#include <cmath>

#include "engine/core/assert.h"
#include "engine/models/loader.h"

namespace pare {
namespace {

float attention_scale(const ModelConfig& config, const BlockConfig& shape, int index) {
  double scale =
      config.attention_scale > 0.0 ? config.attention_scale : 1.0 / std::sqrt(double(shape.head_dim));
  if (config.scale_by_inverse_layer) scale /= double(index + 1);
  return float(scale);
}

}  // namespace

Block::Block(const ModelConfig& config, int index)
    : hidden_size_(config.hidden_size), has_rotary_(config.positions == ModelConfig::Positions::rotary) {
  // What the enabled families do not have; a family that does brings its forward pass along.
  PARE_ASSERT(!config.parallel_residual && !config.post_sublayer_norms, "[block] {} is not enabled",
              config.architecture);
  const BlockConfig& shape = config.blocks[size_t(index)];
  attention_.shape = shape;
  attention_.scale = attention_scale(config, shape, index);
  attention_.softcap = float(config.attention_softcap);
  attention_.is_causal = config.is_causal;
  attention_.kv = config.kv;
  mlp_.activation = config.activation;
  mlp_.is_gated = config.gated_mlp;
  mlp_.intermediate_size = shape.intermediate_size;
  if (!shape.is_mixture()) return;
  PARE_ASSERT(mlp_.is_gated, "[block] experts of {} without a gate", config.architecture);
  experts_.slots = ExpertSlots::of(shape);
  experts_.experts.assign(size_t(shape.experts), mlp_);
}

Result<std::unique_ptr<Block>> Block::load(const WeightSource& source, const ModelDescription& description,
                                           int index, Device device, TrainingSet* training) {
  const Loader loader(source, description, device, training);
  std::unique_ptr<Block> block(new Block(description.config, index));
  Attention& attention = block->attention_;
  PARE_TRY(block->input_norm_, loader.norm(Role::input_norm, Role::input_norm_bias, index));
  if (loader.has(Role::qkv, index)) {
    PARE_TRY(attention.qkv, loader.weight(Role::qkv, index));
  } else {
    PARE_TRY(attention.query, loader.weight(Role::query, index));
    PARE_TRY(attention.key, loader.weight(Role::key, index));
    PARE_TRY(attention.value, loader.weight(Role::value, index));
  }
  if (description.config.query_key_norm) {
    PARE_TRY(attention.query_norm, loader.norm(Role::query_norm, std::nullopt, index));
    PARE_TRY(attention.key_norm, loader.norm(Role::key_norm, std::nullopt, index));
  }
  PARE_TRY(attention.output, loader.weight(Role::attention_output, index));
  PARE_TRY(block->post_attention_norm_,
           loader.norm(Role::post_attention_norm, Role::post_attention_norm_bias, index));
  const auto load_mlp = [&](int expert) -> Status {
    Mlp& mlp = block->mlp_of(expert);
    if (mlp.is_gated) {
      PARE_TRY(mlp.gate, loader.weight(Role::gate, index, WeightUse::multiply, expert));
    }
    PARE_TRY(mlp.up, loader.weight(Role::up, index, WeightUse::multiply, expert));
    PARE_TRY(mlp.down, loader.weight(Role::down, index, WeightUse::multiply, expert));
    return {};
  };
  if (!block->is_mixture()) {
    PARE_CHECK(load_mlp(-1));
    return block;
  }
  PARE_TRY(block->experts_.router, loader.weight(Role::router, index));
  for (int expert = 0; expert < int(block->experts_.experts.size()); ++expert) PARE_CHECK(load_mlp(expert));
  return block;
}

std::unique_ptr<Block> Block::plan(const WeightSource& source, const ModelDescription& description, int index,
                                   Device device) {
  const Loader loader(source, description, device);
  std::unique_ptr<Block> block(new Block(description.config, index));
  Attention& attention = block->attention_;
  if (loader.has(Role::qkv, index)) {
    attention.qkv = loader.planned(Role::qkv, index);
  } else {
    attention.query = loader.planned(Role::query, index);
    attention.key = loader.planned(Role::key, index);
    attention.value = loader.planned(Role::value, index);
  }
  attention.output = loader.planned(Role::attention_output, index);
  const auto plan_mlp = [&](int expert) {
    Mlp& mlp = block->mlp_of(expert);
    if (mlp.is_gated) mlp.gate = loader.planned(Role::gate, index, expert);
    mlp.up = loader.planned(Role::up, index, expert);
    mlp.down = loader.planned(Role::down, index, expert);
  };
  if (!block->is_mixture()) {
    plan_mlp(-1);
    return block;
  }
  block->experts_.router = loader.planned(Role::router, index);
  for (int expert = 0; expert < int(block->experts_.experts.size()); ++expert) plan_mlp(expert);
  return block;
}

Status Block::forward(const Batch& batch, const RotaryTable* rotary, BlockCache* cache, Tensor& hidden,
                      Workspace& workspace) const {
  {
    const Workspace::Scope scope(workspace);
    const LinearInput x = attention_.readers().input(input_norm_, hidden, workspace);
    attention_.forward(x, batch, rotary, cache, hidden, workspace);
  }
  const Workspace::Scope scope(workspace);
  if (is_mixture()) {
    Tensor normed = workspace.take(DType::f32, hidden.shape());
    post_attention_norm_.forward(hidden, normed);
    return experts_.forward(normed, hidden, workspace);
  }
  mlp_.forward(mlp_.readers().input(post_attention_norm_, hidden, workspace), hidden, workspace);
  return {};
}

void Block::produce(Site site, const Batch& batch, const RotaryTable* rotary, const Tensor& from, Tensor& x,
                    Workspace& workspace) const {
  switch (site) {
    case Site::attention_in:
      return input_norm_.forward(from, x);
    case Site::attention_out:
      return attention_.mix(from, batch, rotary, nullptr, x, workspace);
    case Site::mlp_in:
      return post_attention_norm_.forward(from, x);
    case Site::mlp_out:
      return is_mixture() ? experts_.activate(from, x, workspace) : mlp_.activate(from, x, workspace);
    default:
      PARE_ASSERT(false, "[block] no input at {}", site_name(site));
  }
}

void Block::consume(Site site, const Tensor& x, Tensor& hidden, Workspace& workspace) const {
  PARE_ASSERT(site == Site::attention_out || site == Site::mlp_out, "[block] {} feeds no residual",
              site_name(site));
  if (site == Site::mlp_out && is_mixture()) return experts_.project(x, hidden, workspace);
  const Weight& linear = site == Site::attention_out ? attention_.output : mlp_.down;
  linear.multiply(x, /*accumulate=*/true, hidden, workspace);
}

void Block::expert_output(int expert, const Tensor& inner, Tensor& out, Workspace& workspace) const {
  PARE_ASSERT(expert >= 0 && expert < int(experts_.experts.size()), "[block] expert {} of {}", expert,
              experts_.experts.size());
  experts_.experts[size_t(expert)].down.multiply(inner, /*accumulate=*/false, out, workspace);
}

int64_t Block::site_channels(Site site) const {
  switch (site) {
    case Site::attention_out:
      return attention_.shape.heads * attention_.shape.head_dim;
    case Site::mlp_out:
      return is_mixture() ? experts_.slots.row_width() : mlp_.intermediate_size;
    default:
      return hidden_size_;
  }
}

Status Block::reload(const WeightSource& source, const ModelDescription& description, int index, Role role,
                     Device device, int expert) {
  const Loader loader(source, description, device);
  const auto matrix = [&](Weight& weight) -> Status {
    PARE_TRY(weight, loader.weight(role, index, WeightUse::multiply, expert));
    return {};
  };
  switch (role) {
    case Role::query:
      return matrix(attention_.query);
    case Role::key:
      return matrix(attention_.key);
    case Role::value:
      return matrix(attention_.value);
    case Role::qkv:
      return matrix(attention_.qkv);
    case Role::attention_output:
      return matrix(attention_.output);
    case Role::gate:
      return matrix(mlp_of(expert).gate);
    case Role::up:
      return matrix(mlp_of(expert).up);
    case Role::down:
      return matrix(mlp_of(expert).down);
    case Role::router:
      return matrix(experts_.router);
    case Role::query_norm: {
      PARE_TRY(attention_.query_norm, loader.norm(role, std::nullopt, index));
      return {};
    }
    case Role::key_norm: {
      PARE_TRY(attention_.key_norm, loader.norm(role, std::nullopt, index));
      return {};
    }
    case Role::input_norm: {
      PARE_TRY(input_norm_, loader.norm(Role::input_norm, Role::input_norm_bias, index));
      return {};
    }
    case Role::post_attention_norm: {
      PARE_TRY(post_attention_norm_,
               loader.norm(Role::post_attention_norm, Role::post_attention_norm_bias, index));
      return {};
    }
    default:
      PARE_ASSERT(false, "[block] role {} is not reloaded", int(role));
  }
  return {};
}

size_t Block::workspace_bytes(const Batch& batch) const {
  const int64_t tokens = batch.tokens();
  const size_t attention = attention_.readers().norm_input_bytes(tokens, hidden_size_) +
                           attention_.workspace_bytes(batch, has_rotary_);
  const size_t feed_forward =
      is_mixture()
          ? Workspace::bytes_for(DType::f32, {tokens, hidden_size_}) + experts_.workspace_bytes(tokens)
          : mlp_.readers().norm_input_bytes(tokens, hidden_size_) + mlp_.workspace_bytes(tokens);
  return std::max(attention, feed_forward);
}

uint64_t Block::size_bytes() const {
  return input_norm_.size_bytes() + post_attention_norm_.size_bytes() + attention_.size_bytes() +
         mlp_.size_bytes() + experts_.size_bytes();
}

}  // namespace pare
