// A model's settings as GGUF metadata.
#include <fmt/core.h>

#include <algorithm>

#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/gguf/export.h"
#include "formats/gguf/rope.h"

namespace pare {
namespace {

Error refused(std::string_view path, const char* key, std::string what, std::string got = {}) {
  return unsupported("GG35", path, key, std::move(what), std::move(got));
}

Status add_rope(const ModelConfig& config, std::string_view path, GgufPlan& plan) {
  const RopeConfig& rope = config.rope;
  const std::string prefix = plan.architecture + ".rope.";
  const auto dim = static_cast<int64_t>(double(config.blocks[0].head_dim) * rope.partial_factor);
  if (dim != config.blocks[0].head_dim && plan.architecture == "llama")
    return refused(path, "partial_rotary_factor", "GGUF has no place for heads that rotate in part",
                   format_double(rope.partial_factor));
  plan.pairs.add(prefix + "dimension_count", static_cast<uint32_t>(dim));
  plan.pairs.add(prefix + "freq_base", float(rope.theta));
  switch (rope.kind) {
    case RopeConfig::Kind::none:
    case RopeConfig::Kind::standard:
      return {};
    case RopeConfig::Kind::linear:
      plan.pairs.add(prefix + "scaling.type", "linear");
      plan.pairs.add(prefix + "scaling.factor", float(rope.factor));
      return {};
    case RopeConfig::Kind::yarn:
      if (rope.attention_factor != 0.0 || rope.beta_fast != 32.0 || rope.beta_slow != 1.0)
        return refused(path, "rope_scaling", "this variant of yarn is not written");
      plan.pairs.add(prefix + "scaling.type", "yarn");
      plan.pairs.add(prefix + "scaling.factor", float(rope.factor));
      plan.pairs.add(prefix + "scaling.original_context_length",
                     static_cast<uint32_t>(rope.original_max_positions));
      return {};
    case RopeConfig::Kind::llama3:
      if (plan.architecture != "llama") break;
      plan.rope_factors = llama3_rope_factors(rope, dim);
      plan.pairs.add(prefix + "scaling.original_context_length",
                     static_cast<uint32_t>(rope.original_max_positions));
      return {};
    case RopeConfig::Kind::longrope:
      // What a table of factors was read as.
      if (plan.architecture != "llama" || rope.short_factors != rope.long_factors ||
          rope.attention_factor != 1.0)
        break;
      for (const double factor : rope.short_factors) plan.rope_factors.push_back(float(factor));
      return {};
    case RopeConfig::Kind::dynamic:
      break;
  }
  return refused(path, "rope_scaling", "GGUF has no place for this rope scaling of " + plan.architecture);
}

Status check_common(const ModelConfig& config, std::string_view path) {
  const bool equal = std::all_of(config.blocks.begin(), config.blocks.end(),
                                 [&](const BlockConfig& block) { return block == config.blocks[0]; });
  if (!equal) return refused(path, "num_hidden_layers", "blocks of different shapes are not written");
  if (config.attention_scale != 0.0 || config.scale_by_inverse_layer)
    return refused(path, "scale_attn_weights", "GGUF has no place for this scale of attention");
  if (config.position_offset != 0 || config.parallel_residual || config.post_sublayer_norms ||
      config.embedding_scale != 1.0 || config.attention_softcap != 0.0 || config.logit_softcap != 0.0)
    return refused(path, "architectures", "model uses settings that are not written");
  return {};
}

}  // namespace

Status add_gguf_config(const ModelDescription& model, std::string_view path, GgufPlan& plan) {
  const ModelConfig& config = model.config;
  PARE_CHECK(check_common(config, path));
  const BlockConfig& block = config.blocks[0];
  const bool is_gpt2 = config.model_type == "gpt2";
  if (config.activation != (is_gpt2 ? Activation::gelu_tanh : Activation::silu))
    return refused(path, is_gpt2 ? "activation_function" : "hidden_act",
                   "GGUF has no place for this activation");
  if (block.sliding_window > 0 && config.model_type != "mistral")
    return refused(path, "use_sliding_window", "sliding windows of this family are not written");
  const std::string prefix = plan.architecture + ".";
  const auto add = [&](const char* key, int64_t value) {
    plan.pairs.add(prefix + key, static_cast<uint32_t>(value));
  };
  add("context_length", config.max_positions);
  add("embedding_length", config.hidden_size);
  add("block_count", config.block_count());
  add("feed_forward_length", block.intermediate_size);
  add("attention.head_count", block.heads);
  add("attention.head_count_kv", block.kv_heads);
  add("vocab_size", config.vocabulary_size);
  plan.pairs.add(prefix + (is_gpt2 ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
                 float(config.norm_eps));
  if (is_gpt2) return {};
  if (block.head_dim * block.heads != config.hidden_size || config.model_type == "qwen3") {
    add("attention.key_length", block.head_dim);
    add("attention.value_length", block.head_dim);
  }
  if (block.sliding_window > 0) {
    add("attention.sliding_window", block.sliding_window);
    plan.notes.push_back(
        fmt::format("sliding window of {}: other programs may ignore it", block.sliding_window));
  }
  return add_rope(config, path, plan);
}

}  // namespace pare
