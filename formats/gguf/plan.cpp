// Which GGUF type each tensor gets.
#include <fmt/core.h>

#include <algorithm>

#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/gguf/export.h"

namespace pare {
namespace {

struct Mixture {
  std::string_view name;
  GgufType type;       // of most matrices
  bool is_mixed;       // some of v and down in Q6_K
  uint32_t file_type;  // general.file_type
};
constexpr Mixture kMixtures[] = {{"F32", GgufType::f32, false, 0},    {"F16", GgufType::f16, false, 1},
                                 {"BF16", GgufType::bf16, false, 32}, {"Q8_0", GgufType::q8_0, false, 7},
                                 {"Q4_0", GgufType::q4_0, false, 2},  {"Q4_1", GgufType::q4_1, false, 3},
                                 {"Q5_0", GgufType::q5_0, false, 8},  {"Q5_1", GgufType::q5_1, false, 9},
                                 {"Q4_K", GgufType::q4_k, false, 14}, {"Q5_K", GgufType::q5_k, false, 16},
                                 {"Q6_K", GgufType::q6_k, false, 18}, {"Q4_K_M", GgufType::q4_k, true, 15},
                                 {"Q5_K_M", GgufType::q5_k, true, 17}};

// What stands in for a type of 256-weight blocks when rows do not divide.
GgufType smaller_blocks(GgufType type) {
  return type == GgufType::q4_k ? GgufType::q5_0 : type == GgufType::q5_k ? GgufType::q5_1 : GgufType::q8_0;
}

bool uses_more_bits(int block, int64_t blocks) {
  const int64_t eighth = blocks / 8;
  return block < eighth || block >= 7 * blocks / 8 || (block - eighth) % 3 == 2;
}

class Planner {
 public:
  Planner(const ModelDescription& model, const Mixture& mixture) : model_(model), mixture_(mixture) {}

  void choose(const TensorSpec& spec, GgufPlanned& tensor) const {
    const bool is_matrix = spec.shape.rank() == 2 && spec.role != Role::positions;
    if (!is_matrix) return;  // stays F32
    GgufType type = mixture_.type;
    const bool is_head =
        spec.role == Role::lm_head || (spec.role == Role::embedding && model_.config.tied_head);
    const auto& blocks = gguf_type_info(type).blocks;
    if (is_head && blocks && blocks->bits < 6) {
      type = GgufType::q6_k;
      tensor.reason = "the head decides on every token";
    }
    if (mixture_.is_mixed && (spec.role == Role::value || spec.role == Role::down) &&
        uses_more_bits(spec.block, model_.config.block_count())) {
      type = GgufType::q6_k;
      tensor.reason = fmt::format("{} gives it to attn_v and ffn_down of these layers", mixture_.name);
    }
    const auto row = static_cast<uint64_t>(spec.in());
    if (gguf_type_info(type).block_elements == 256 && row % 256 != 0) {
      tensor.reason =
          fmt::format("rows of {} are no multiple of the 256 of {}", row, gguf_type_info(type).name);
      type = smaller_blocks(type);
    }
    if (row % gguf_type_info(type).block_elements != 0) {
      tensor.reason =
          fmt::format("rows of {} are no multiple of the 32 of {}", row, gguf_type_info(type).name);
      type = GgufType::f16;
    }
    tensor.out.type = type;
    if (type == mixture_.type) tensor.reason.clear();
  }

 private:
  const ModelDescription& model_;
  const Mixture& mixture_;
};

Result<std::string> architecture_of(const ModelConfig& config, std::string_view path) {
  for (const char* same : {"llama", "qwen2", "qwen3", "gpt2"}) {
    if (config.model_type == same) return std::string(same);
  }
  if (config.model_type == "mistral") return std::string("llama");
  return unsupported("GG35", path, "architectures", "GGUF of this family is not written",
                     quote(config.architecture), "Llama, Mistral, Qwen2, Qwen3, GPT2");
}

const TensorSpec* owner_of(const ModelDescription& model, const TensorSpec& spec) {
  return spec.role == Role::bias ? model.find(spec.owner) : nullptr;
}

// Sentences like "12 tensors use Q5_0 because rows of 576 are no multiple of the 256 of Q4_K".
void add_type_notes(GgufPlan& plan) {
  std::vector<std::pair<std::string, int64_t>> kinds;
  for (const GgufPlanned& tensor : plan.tensors) {
    if (tensor.reason.empty()) continue;
    const std::string text =
        fmt::format("{} because {}", gguf_type_info(tensor.out.type).name, tensor.reason);
    const auto found =
        std::find_if(kinds.begin(), kinds.end(), [&](const auto& kind) { return kind.first == text; });
    if (found == kinds.end()) {
      kinds.emplace_back(text, 1);
    } else {
      ++found->second;
    }
  }
  for (const auto& [text, count] : kinds)
    plan.notes.push_back(fmt::format("{} {} {}", count, count == 1 ? "tensor uses" : "tensors use", text));
}

}  // namespace

const std::vector<std::string>& gguf_export_types() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const Mixture& mixture : kMixtures) list.emplace_back(mixture.name);
    return list;
  }();
  return names;
}

Result<GgufPlan> plan_gguf(const WeightSource& source, const ModelDescription& model, std::string_view type) {
  const auto mixture = std::find_if(std::begin(kMixtures), std::end(kMixtures),
                                    [&](const Mixture& m) { return m.name == type; });
  if (mixture == std::end(kMixtures))
    return fault(Exit::usage, "CL13", "--type", "", "unknown type", quote(type),
                 "F32, F16, BF16, Q8_0, Q4_0, ...", "expected");
  const std::string path = source.path();
  GgufPlan plan;
  PARE_TRY(plan.architecture, architecture_of(model.config, path));
  plan.pairs.add("general.architecture", plan.architecture);
  plan.pairs.add("general.type", "model");
  plan.pairs.add("general.file_type", mixture->file_type);
  if (gguf_type_info(mixture->type).blocks) plan.pairs.add("general.quantization_version", uint32_t{2});
  PARE_CHECK(add_gguf_config(model, path, plan));
  PARE_CHECK(add_gguf_tokenizer(source, model.config, plan));
  if (!plan.rope_factors.empty()) {
    GgufPlanned factors;
    factors.out = {"rope_freqs.weight", GgufType::f32, Shape{static_cast<int64_t>(plan.rope_factors.size())}};
    plan.tensors.push_back(std::move(factors));
  }
  const Planner planner(model, *mixture);
  for (const TensorSpec& spec : model.tensors) {
    const GgufName name = gguf_name(plan.architecture, spec, owner_of(model, spec));
    GgufPlanned tensor;
    tensor.spec = &spec;
    tensor.change = name.change;
    tensor.out.name = name.name;
    tensor.out.shape = spec.transposed ? Shape{spec.out(), spec.in()} : spec.shape;
    if (name.change == GgufChange::permuted)
      tensor.head_dim = model.config.blocks[static_cast<size_t>(spec.block)].head_dim;
    planner.choose(spec, tensor);
    plan.tensors.push_back(std::move(tensor));
  }
  add_type_notes(plan);
  return plan;
}

}  // namespace pare
