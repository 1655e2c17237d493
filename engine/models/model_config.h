// engine/models/model_config.h: a model's shape, normalised from any family's config.json. Source: docs of
// the formats we read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/tensor/backend.h"
#include "engine/tensor/dtype.h"

namespace pare {

struct RopeConfig {
  enum class Kind : uint8_t { none, standard, linear, dynamic, yarn, longrope, llama3 };
  Kind kind = Kind::none;
  double theta = 10000.0;
  double partial_factor = 1.0;  // share of head_dim that rotates
  double factor = 1.0;
  double low_frequency_factor = 1.0, high_frequency_factor = 4.0;  // llama3
  double beta_fast = 32.0, beta_slow = 1.0;                        // yarn
  int64_t original_max_positions = 0;
  double attention_factor = 0.0;                    // 0: computed from the kind
  std::vector<double> short_factors, long_factors;  // longrope
  bool operator==(const RopeConfig&) const = default;
};

// Shapes of one block; structured pruning may leave blocks unequal.
struct BlockConfig {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t intermediate_size = 0;
  int64_t sliding_window = 0;     // 0: none
  int64_t experts = 0;            // 0: one MLP; else a mixture of MLPs of intermediate_size each
  int64_t experts_per_token = 0;  // of mixtures: 1 to experts
  bool is_mixture() const { return experts > 0; }
  bool operator==(const BlockConfig&) const = default;
};

struct ModelConfig {
  enum class Norm : uint8_t { rms, rms_plus_one, layer };
  enum class Positions : uint8_t { rotary, learned };

  std::string architecture;  // "LlamaForCausalLM"
  std::string model_type;    // "llama"
  int64_t vocabulary_size = 0;
  int64_t hidden_size = 0;
  int64_t max_positions = 0;
  std::vector<BlockConfig> blocks;

  Norm norm = Norm::rms;
  double norm_eps = 1e-6;
  Activation activation = Activation::silu;
  bool gated_mlp = true;
  Positions positions = Positions::rotary;
  int64_t position_offset = 0;  // first row of the learned table (OPT: 2)
  RopeConfig rope;              // of full-attention blocks
  bool qkv_bias = false, attention_output_bias = false, mlp_bias = false;
  bool query_key_norm = false;  // per-head RMS norm of q and k before rotary
  bool tied_head = false;
  bool is_causal = true;
  bool parallel_residual = false;
  bool post_sublayer_norms = false;  // Gemma2: norms on sub-layer outputs too
  double embedding_scale = 1.0;
  double attention_scale = 0.0;         // 0: head_dim^-1/2
  bool scale_by_inverse_layer = false;  // GPT-2 option: also divide by block index + 1
  double attention_softcap = 0.0, logit_softcap = 0.0;
  DType stored_dtype = DType::f32;  // "dtype" of the config, else of the tensors

  KvQuant kv = {};  // how keys and values are kept: a choice of the run, not of the checkpoint

  std::vector<int32_t> eos_ids;  // config or generation_config; may be empty
  int32_t bos_id = -1;

  int64_t block_count() const { return int64_t(blocks.size()); }
};

}  // namespace pare
