// engine/models/architecture.h: what a family of models declares about itself. One file per family in
// architectures/, one line in architectures/registry.cpp.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/models/model_config.h"
#include "engine/models/weight_source.h"

namespace pare {

// What a tensor is to the model.
enum class Role : uint8_t {
  embedding,
  positions,
  lm_head,
  final_norm,
  final_norm_bias,
  input_norm,
  input_norm_bias,  // before attention
  post_attention_norm,
  post_attention_norm_bias,  // before the MLP
  query,
  key,
  value,
  qkv,  // qkv: rows q, then k, then v
  attention_output,
  query_norm,
  key_norm,
  gate,
  up,
  gate_up,  // up: also the only input matrix of a plain MLP; gate_up: rows gate, then up
  down,
  router,  // of a mixture of experts: one row per expert
  bias,    // of the linear named by `owner`
};

// A site is the input of one or several linears; linears that share an input share the site. In a mixture of
// experts the router and every expert's gate and up read mlp_in; mlp_out is one input per expert, that of its
// down, with the tokens that chose the expert.
enum class Site : uint8_t { none, attention_in, attention_out, mlp_in, mlp_out, head_in };
std::string_view site_name(Site site);  // "attn.in", "attn.out", "mlp.in", "mlp.act", "head.in"

// One tensor that the model needs or may have, in execution order.
struct TensorSpec {
  std::string name;  // checkpoint name
  Role role;
  int block = -1;           // -1: embedding side; block_count(): head side
  Site site = Site::none;   // of linears
  Shape shape{};            // as a checkpoint stores it
  bool is_linear = false;   // a matrix that multiplies activations, compressible by default (lm_head is not)
  bool transposed = false;  // stored [in, out] (Conv1D)
  bool required = true;
  std::string owner{};  // of biases: the weight they belong to
  int expert = -1;      // of gate, up and down in a mixture: whose; -1: not of one expert

  int64_t out() const { return transposed ? shape[1] : shape[0]; }  // of matrices
  int64_t in() const { return transposed ? shape[0] : shape[1]; }
};

// Two parts whose scales may be exchanged without changing the model: `producer`'s output channels feed
// `site`.
struct FoldPair {
  Role producer;
  Site site;
};

struct Architecture {
  std::string_view name;        // "LlamaForCausalLM"
  std::string_view model_type;  // "llama"
  bool is_enabled = true;       // declared families without a tested forward refuse with exit 4
  // Reads config.json. Errors: exit 3 (CF04 to CF08, CF13, CF14) or 4, with the key.
  Result<ModelConfig> (*configure)(const Json& config, std::string_view path) = nullptr;
  // All tensors, in execution order: embedding, positions, blocks, final norm, head. `prefix` is the one
  // detected in the file
  // ("model.", "transformer.", or empty).
  std::vector<TensorSpec> (*describe)(const ModelConfig& config, std::string_view prefix) = nullptr;
  std::span<const std::string_view> prefixes;  // accepted prefixes, preferred first
  std::span<const std::string_view> ignored;   // buffers that old files carry ("*.rotary_emb.inv_freq")
  std::span<const FoldPair> fold_pairs;
};

// Explicit list in detection order; includes families that are declared but not enabled.
std::span<const Architecture> architectures();

// By architectures[0], then model_type. Exit 4 with the supported list for an unknown or disabled family, or
// for auto_map.
Result<const Architecture*> find_architecture(const Json& config, std::string_view path);

// "mlp.act expert 3"; without an expert the name of the site.
std::string site_text(Site site, int expert);

// What a source holds, checked against the family: every required tensor is there with its shape (CF09,
// CF16), nothing else is there but ignored buffers.
struct ModelDescription {
  const Architecture* architecture = nullptr;
  ModelConfig config;
  std::vector<TensorSpec> tensors;  // those present, in execution order
  const TensorSpec* find(std::string_view name) const;
  const TensorSpec* find(Role role, int block, int expert = -1) const;
};
Result<ModelDescription> describe_model(const WeightSource& source);

// What the config asks for, whatever is stored: all tensors in execution order under the prefix that the
// source uses (else the preferred one), and the head of a tied model as well, not required. For readers that
// must know which matrices there are before they can say what is stored. Errors as configure(); CF09 when
// there are fewer tensors than layers.
Result<std::vector<TensorSpec>> expected_tensors(const WeightSource& source);

}  // namespace pare
