// Families that pare knows by name and refuses until their forward pass is tested against reference logits.
#include <array>

#include "engine/models/architectures/families.h"

namespace pare {
namespace {

constexpr Architecture declared(std::string_view name, std::string_view model_type) {
  Architecture family;
  family.name = name;
  family.model_type = model_type;
  family.is_enabled = false;
  return family;
}

constexpr std::array kNotEnabled{
    declared("GemmaForCausalLM", "gemma"),        declared("Gemma2ForCausalLM", "gemma2"),
    declared("Gemma3ForCausalLM", "gemma3_text"), declared("Phi3ForCausalLM", "phi3"),
    declared("GPTNeoXForCausalLM", "gpt_neox"),   declared("OPTForCausalLM", "opt"),
    declared("BertForMaskedLM", "bert"),          declared("BertModel", "bert"),
    declared("Qwen2MoeForCausalLM", "qwen2_moe"), declared("Qwen3MoeForCausalLM", "qwen3_moe"),
};

}  // namespace

std::span<const Architecture> families_not_enabled() {
  return kNotEnabled;
}

}  // namespace pare
