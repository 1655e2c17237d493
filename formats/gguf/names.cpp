#include "formats/gguf/names.h"

#include <fmt/core.h>

#include <array>
#include <span>

#include "engine/core/assert.h"
#include "engine/core/text.h"

namespace pare {
namespace {

struct Row {
  std::string_view gguf, checkpoint;
  Role role;
};

constexpr std::array kLlamaOuter{Row{"token_embd", "model.embed_tokens", Role::embedding},
                                 Row{"output_norm", "model.norm", Role::final_norm},
                                 Row{"output", "lm_head", Role::lm_head}};
constexpr std::array kLlamaBlock{Row{"attn_norm", "input_layernorm", Role::input_norm},
                                 Row{"attn_q", "self_attn.q_proj", Role::query},
                                 Row{"attn_k", "self_attn.k_proj", Role::key},
                                 Row{"attn_v", "self_attn.v_proj", Role::value},
                                 Row{"attn_q_norm", "self_attn.q_norm", Role::query_norm},
                                 Row{"attn_k_norm", "self_attn.k_norm", Role::key_norm},
                                 Row{"attn_output", "self_attn.o_proj", Role::attention_output},
                                 Row{"ffn_norm", "post_attention_layernorm", Role::post_attention_norm},
                                 Row{"ffn_gate", "mlp.gate_proj", Role::gate},
                                 Row{"ffn_up", "mlp.up_proj", Role::up},
                                 Row{"ffn_down", "mlp.down_proj", Role::down}};
constexpr std::array kGpt2Outer{Row{"token_embd", "transformer.wte", Role::embedding},
                                Row{"position_embd", "transformer.wpe", Role::positions},
                                Row{"output_norm", "transformer.ln_f", Role::final_norm},
                                Row{"output", "lm_head", Role::lm_head}};
constexpr std::array kGpt2Block{Row{"attn_norm", "ln_1", Role::input_norm},
                                Row{"attn_qkv", "attn.c_attn", Role::qkv},
                                Row{"attn_output", "attn.c_proj", Role::attention_output},
                                Row{"ffn_norm", "ln_2", Role::post_attention_norm},
                                Row{"ffn_up", "mlp.c_fc", Role::up},
                                Row{"ffn_down", "mlp.c_proj", Role::down}};

struct Tables {
  std::span<const Row> outer, block;
  std::string_view block_stem;  // of the checkpoint
};

Tables tables_of(std::string_view architecture) {
  if (architecture == "gpt2") return {kGpt2Outer, kGpt2Block, "transformer.h."};
  return {kLlamaOuter, kLlamaBlock, "model.layers."};
}

GgufChange change_of(std::string_view architecture, Role role, bool is_weight) {
  if (architecture == "llama" && (role == Role::query || role == Role::key)) return GgufChange::permuted;
  const bool is_linear =
      role == Role::qkv || role == Role::attention_output || role == Role::up || role == Role::down;
  return architecture == "gpt2" && is_linear && is_weight ? GgufChange::transposed : GgufChange::none;
}

// Norm biases have roles of their own in a model; here they share the row of the norm.
Role row_role(Role role) {
  switch (role) {
    case Role::final_norm_bias:
      return Role::final_norm;
    case Role::input_norm_bias:
      return Role::input_norm;
    case Role::post_attention_norm_bias:
      return Role::post_attention_norm;
    default:
      return role;
  }
}

}  // namespace

std::optional<GgufName> checkpoint_name(std::string_view architecture, std::string_view gguf_name) {
  const size_t dot = gguf_name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  std::string_view stem = gguf_name.substr(0, dot);
  const std::string_view suffix = gguf_name.substr(dot);
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
  const Tables tables = tables_of(architecture);
  std::string prefix;
  std::span<const Row> rows = tables.outer;
  if (stem.starts_with("blk.")) {
    stem.remove_prefix(4);
    const size_t end = stem.find('.');
    if (end == std::string_view::npos) return std::nullopt;
    const auto block = parse_uint(stem.substr(0, end));
    if (!block || fmt::format("{}", *block) != stem.substr(0, end))
      return std::nullopt;  // "07" is another name
    prefix = fmt::format("{}{}.", tables.block_stem, *block);
    stem.remove_prefix(end + 1);
    rows = tables.block;
  }
  for (const Row& row : rows) {
    if (row.gguf != stem) continue;
    return GgufName{fmt::format("{}{}{}", prefix, row.checkpoint, suffix),
                    change_of(architecture, row.role, suffix == ".weight"), row.role};
  }
  return std::nullopt;
}

GgufName gguf_name(std::string_view architecture, const TensorSpec& spec, const TensorSpec* owner) {
  const Role role = row_role(spec.role == Role::bias && owner != nullptr ? owner->role : spec.role);
  const Tables tables = tables_of(architecture);
  const bool is_weight = spec.name.ends_with(".weight");
  const std::string_view suffix = is_weight ? ".weight" : ".bias";
  for (const Row& row : tables.outer) {
    if (row.role == role) return {fmt::format("{}{}", row.gguf, suffix), GgufChange::none, role};
  }
  for (const Row& row : tables.block) {
    if (row.role != role) continue;
    return {fmt::format("blk.{}.{}{}", spec.block, row.gguf, suffix),
            change_of(architecture, role, is_weight), role};
  }
  PARE_ASSERT(false, "[gguf] {} has no name in {}", spec.name, architecture);
  return {};
}

}  // namespace pare
