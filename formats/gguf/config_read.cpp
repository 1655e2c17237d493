#include "formats/gguf/config_read.h"

#include <fmt/core.h>

#include <array>
#include <cmath>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/gguf/rope.h"

namespace pare {
namespace {

constexpr std::array<std::string_view, 4> kArchitectures{"llama", "qwen2", "qwen3", "gpt2"};
constexpr int64_t kMaxSize = static_cast<int64_t>(limits::kHiddenSize);
constexpr int64_t kMaxPositions = INT32_MAX - 1;

// Settings that change what a model computes and that pare has no place for.
constexpr std::array<std::string_view, 9> kRefused{"expert_count",
                                                   "attention.scale",
                                                   "attention.clamp_kqv",
                                                   "logit_scale",
                                                   "residual_scale",
                                                   "embedding_scale",
                                                   "attn_logit_softcapping",
                                                   "final_logit_softcapping",
                                                   "attention.max_alibi_bias"};

class ConfigBuilder {
 public:
  ConfigBuilder(const GgufMetadata& metadata, const std::string& architecture, const GgufFacts& facts)
      : metadata_(metadata), architecture_(architecture), facts_(facts) {}

  Result<Json> build() {
    PARE_CHECK(refuse_settings());
    PARE_CHECK(architecture_ == "gpt2" ? read_gpt2() : read_llama_like());
    PARE_CHECK(read_special_ids());
    config_["torch_dtype"] = facts_.dtype;
    return std::move(config_);
  }

 private:
  std::string key(std::string_view name) const { return architecture_ + "." + std::string(name); }

  Result<int64_t> size(std::string_view name, int64_t high) const {
    return metadata_.required_integer(key(name), 1, high);
  }

  Status refuse_settings() const {
    for (const std::string_view name : kRefused) {
      PARE_TRY(const auto value, metadata_.number(key(name)));
      if (!value || *value == 0.0) continue;
      return unsupported("GG35", metadata_.path(), key(name), "setting is not supported",
                         format_double(*value));
    }
    PARE_TRY(const auto causal, metadata_.flag(key("attention.causal")));
    if (causal.value_or(true)) return {};
    return unsupported("GG35", metadata_.path(), key("attention.causal"),
                       "models that see ahead are not supported");
  }

  Status read_llama_like() {
    PARE_TRY(const int64_t hidden, size("embedding_length", kMaxSize));
    PARE_TRY(const int64_t layers, size("block_count", static_cast<int64_t>(limits::kLayers)));
    PARE_TRY(const int64_t heads, size("attention.head_count", kMaxSize));
    PARE_TRY(const auto kv_heads, metadata_.integer(key("attention.head_count_kv"), 1, heads));
    PARE_TRY(const int64_t intermediate, size("feed_forward_length", kMaxSize));
    PARE_TRY(const int64_t positions, size("context_length", kMaxPositions));
    PARE_TRY(const double epsilon, metadata_.required_positive(key("attention.layer_norm_rms_epsilon")));
    PARE_TRY(const int64_t head_dim, gguf_head_dim(metadata_, architecture_));
    PARE_TRY(const auto window, metadata_.integer(key("attention.sliding_window"), 0, kMaxPositions));
    const bool slides = window.value_or(0) > 0;
    if (slides && architecture_ != "llama") {
      return unsupported("GG35", metadata_.path(), key("attention.sliding_window"),
                         "sliding windows of this family are not supported", std::to_string(*window));
    }
    name_family(slides ? "mistral" : architecture_);
    config_["vocab_size"] = facts_.vocabulary_rows;
    config_["hidden_size"] = hidden;
    config_["intermediate_size"] = intermediate;
    config_["num_hidden_layers"] = layers;
    config_["num_attention_heads"] = heads;
    config_["num_key_value_heads"] = kv_heads.value_or(heads);
    config_["head_dim"] = head_dim;
    config_["hidden_act"] = "silu";
    config_["max_position_embeddings"] = positions;
    config_["rms_norm_eps"] = epsilon;
    config_["tie_word_embeddings"] = !facts_.has_head;
    if (slides) config_["sliding_window"] = *window;
    if (architecture_ == "llama" || architecture_ == "qwen3")
      config_["attention_bias"] = facts_.has_attention_bias;
    if (architecture_ == "llama") config_["mlp_bias"] = facts_.has_mlp_bias;
    return read_gguf_rope(metadata_, architecture_, head_dim, facts_.rope_factors, config_);
  }

  Status read_gpt2() {
    PARE_TRY(const int64_t hidden, size("embedding_length", kMaxSize));
    PARE_TRY(const int64_t layers, size("block_count", static_cast<int64_t>(limits::kLayers)));
    PARE_TRY(const int64_t heads, size("attention.head_count", kMaxSize));
    PARE_TRY(const int64_t intermediate, size("feed_forward_length", kMaxSize));
    PARE_TRY(const int64_t positions, size("context_length", kMaxPositions));
    PARE_TRY(const double epsilon, metadata_.required_positive(key("attention.layer_norm_epsilon")));
    name_family("gpt2");
    config_["vocab_size"] = facts_.vocabulary_rows;
    config_["n_embd"] = hidden;
    config_["n_layer"] = layers;
    config_["n_head"] = heads;
    config_["n_inner"] = intermediate;
    config_["n_positions"] = positions;
    config_["activation_function"] = "gelu_new";
    config_["layer_norm_epsilon"] = epsilon;
    config_["tie_word_embeddings"] = !facts_.has_head;
    return {};
  }

  void name_family(std::string_view family) {
    const std::string_view name = family == "llama"     ? "LlamaForCausalLM"
                                  : family == "mistral" ? "MistralForCausalLM"
                                  : family == "qwen2"   ? "Qwen2ForCausalLM"
                                  : family == "qwen3"   ? "Qwen3ForCausalLM"
                                                        : "GPT2LMHeadModel";
    config_["architectures"] = Json(Json::Array{Json(name)});
    config_["model_type"] = family;
  }

  Status read_special_ids() {
    PARE_TRY(const auto bos, token_id("tokenizer.ggml.bos_token_id"));
    PARE_TRY(const auto eos, token_id("tokenizer.ggml.eos_token_id"));
    PARE_TRY(const auto end_of_turn, token_id("tokenizer.ggml.eot_token_id"));
    if (bos) config_["bos_token_id"] = *bos;
    if (eos && end_of_turn && *eos != *end_of_turn) {
      config_["eos_token_id"] = Json(Json::Array{Json(*eos), Json(*end_of_turn)});
    } else if (eos || end_of_turn) {
      config_["eos_token_id"] = eos ? *eos : *end_of_turn;
    }
    return {};
  }

  Result<std::optional<int64_t>> token_id(std::string_view name) const {
    return metadata_.integer(name, 0, facts_.vocabulary_rows - 1);
  }

  const GgufMetadata& metadata_;
  const std::string& architecture_;
  const GgufFacts& facts_;
  Json config_ = Json::object();
};

}  // namespace

Result<std::string> gguf_architecture(const GgufMetadata& metadata) {
  PARE_TRY(const auto name, metadata.text("general.architecture"));
  if (!name) return malformed("GG35", metadata.path(), "general.architecture", "required key is missing");
  std::string known;
  for (const std::string_view architecture : kArchitectures) {
    if (*name == architecture) return *name;
    known += (known.empty() ? "" : ", ") + std::string(architecture);
  }
  return unsupported("GG35", metadata.path(), "general.architecture", "architecture is not supported",
                     quote(*name), known);
}

Result<int64_t> gguf_head_dim(const GgufMetadata& metadata, const std::string& architecture) {
  PARE_TRY(const auto key_length, metadata.integer(architecture + ".attention.key_length", 1, kMaxSize));
  PARE_TRY(const auto value_length, metadata.integer(architecture + ".attention.value_length", 1, kMaxSize));
  if (key_length && value_length && *key_length != *value_length) {
    return unsupported("GG35", metadata.path(), architecture + ".attention.value_length",
                       "values of another size than keys are not supported", std::to_string(*value_length),
                       std::to_string(*key_length));
  }
  if (key_length) return *key_length;
  PARE_TRY(const int64_t hidden, metadata.required_integer(architecture + ".embedding_length", 1, kMaxSize));
  PARE_TRY(const int64_t heads,
           metadata.required_integer(architecture + ".attention.head_count", 1, kMaxSize));
  if (hidden % heads != 0)
    return metadata.bad(architecture + ".attention.head_count", "does not divide the embedding length",
                        std::to_string(heads), fmt::format("a divisor of {}", hidden));
  return hidden / heads;
}

Result<Json> gguf_config(const GgufMetadata& metadata, const std::string& architecture,
                         const GgufFacts& facts) {
  return ConfigBuilder(metadata, architecture, facts).build();
}

}  // namespace pare
