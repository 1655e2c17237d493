#include "engine/models/architecture.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "engine/core/limits.h"
#include "engine/core/log.h"
#include "engine/core/text.h"
#include "engine/models/architectures/config_reader.h"

namespace pare {
namespace {

constexpr size_t kShownNames = 8;

// Where config.json lies, for messages: beside a weight file, in a directory, or inside a container.
std::string config_path(const std::string& path) {
  if (path.ends_with(".pare") || path.ends_with(".gguf")) return path + ": config.json";
  if (!path.ends_with(".safetensors")) return path + "/config.json";
  const size_t slash = path.rfind('/');
  return (slash == std::string::npos ? std::string() : path.substr(0, slash + 1)) + "config.json";
}

std::string sibling(const std::string& config, std::string_view name) {
  return config.substr(0, config.size() - std::string_view("config.json").size()) + std::string(name);
}

Error tensor_error(std::string_view rule, const std::string& path, std::string where, std::string what) {
  return {.exit = Exit::malformed,
          .rule = std::string(rule),
          .path = path,
          .where = std::move(where),
          .what = std::move(what),
          .limit_label = "expected"};
}

// Which config key decides axis `axis` of a tensor, in the logical order [out, in].
std::string shape_key(const Json& config, Role role, int axis) {
  const bool gpt2_keys = config.find("n_embd") != nullptr;
  const std::string hidden = gpt2_keys ? "n_embd" : "hidden_size";
  const std::string heads = gpt2_keys ? "n_head" : "num_attention_heads, head_dim";
  const std::string intermediate = gpt2_keys ? "n_inner" : "intermediate_size";
  switch (role) {
    case Role::embedding:
    case Role::lm_head:
      return axis == 0 ? "vocab_size" : hidden;
    case Role::positions:
      return axis == 0 ? (gpt2_keys ? "n_positions" : "max_position_embeddings") : hidden;
    case Role::query:
    case Role::qkv:
      return axis == 0 ? heads : hidden;
    case Role::key:
    case Role::value:
      return axis == 0 ? "num_key_value_heads, head_dim" : hidden;
    case Role::attention_output:
      return axis == 0 ? hidden : heads;
    case Role::query_norm:
    case Role::key_norm:
      return "head_dim";
    case Role::gate:
    case Role::up:
    case Role::gate_up:
      return axis == 0 ? intermediate : hidden;
    case Role::down:
      return axis == 0 ? hidden : intermediate;
    case Role::router:
      return axis == 0 ? "num_local_experts" : hidden;
    case Role::bias:
    case Role::final_norm:
    case Role::final_norm_bias:
    case Role::input_norm:
    case Role::input_norm_bias:
    case Role::post_attention_norm:
    case Role::post_attention_norm_bias:
      break;
  }
  return hidden;
}

bool is_matrix(Role role) {
  switch (role) {
    case Role::embedding:
    case Role::positions:
    case Role::lm_head:
    case Role::query:
    case Role::key:
    case Role::value:
    case Role::qkv:
    case Role::attention_output:
    case Role::gate:
    case Role::up:
    case Role::gate_up:
    case Role::down:
    case Role::router:
      return true;
    default:
      return false;
  }
}

// CF09, and the forms a tensor may have. `key_role` names the config keys (a bias has those of its owner's
// rows).
Status check_tensor(const std::string& path, const Json& config, const TensorSpec& spec, Role key_role,
                    const StoredTensor& stored) {
  const bool quantized = !stored.is_dense();
  if (quantized && !is_matrix(spec.role))
    return tensor_error("CF09", path, quote(spec.name), "only matrices may be quantized");
  if (!quantized && !is_weight_dtype(stored.dtype)) {
    Error error = tensor_error("CF09", path, quote(spec.name), "dtype cannot be computed with");
    error.exit = Exit::unsupported;
    error.got = dtype_name(stored.dtype);
    error.limit = "F32, BF16, F16, F8_E4M3, F8_E5M2";
    return error;
  }
  if (quantized && stored.transposed != spec.transposed)
    return tensor_error("CF09", path, quote(spec.name), "transposed flag does not fit the architecture");
  const Shape expected = quantized ? Shape{spec.out(), spec.in()} : spec.shape;
  if (stored.shape == expected) return {};
  std::string key = shape_key(config, key_role, 0);
  if (expected.rank() == 2 && stored.shape.rank() == 2) {
    const bool in_first = !quantized && spec.transposed;
    const bool rows_differ = stored.shape[in_first ? 1 : 0] != expected[in_first ? 1 : 0];
    const bool columns_differ = stored.shape[in_first ? 0 : 1] != expected[in_first ? 0 : 1];
    if (!rows_differ) key.clear();
    if (columns_differ) key += (key.empty() ? "" : ", ") + shape_key(config, key_role, 1);
  }
  Error error = tensor_error("CF09", path, fmt::format("{}, {}", key, quote(spec.name)), "shapes disagree");
  error.got = stored.shape.text();
  error.limit = expected.text();
  return error;
}

// CF16: a head stored beside a tied embedding must be its copy.
Status check_tied_head(const WeightSource& source, const std::string& path, const std::string& embedding,
                       const std::string& head) {
  const auto differs = [&] {
    return tensor_error("CF16", path, fmt::format("tie_word_embeddings, {}", quote(head)),
                        fmt::format("tied, but differs from {}", quote(embedding)));
  };
  const StoredTensor& a = *source.find(embedding);
  const StoredTensor& b = *source.find(head);
  if (a.dtype != b.dtype || !(a.shape == b.shape) || a.form_text() != b.form_text()) return differs();
  PARE_TRY(const WeightData left, source.load(embedding));
  PARE_TRY(const WeightData right, source.load(head));
  const auto same = [](const Tensor& x, const Tensor& y) {
    if (x.defined() != y.defined()) return false;
    return !x.defined() ||
           (x.size_bytes() == y.size_bytes() && std::memcmp(x.raw(), y.raw(), x.size_bytes()) == 0);
  };
  bool equal = left.form.index() == right.form.index();
  if (equal && left.is_quantized()) {
    const QuantizedTensor& x = *left.quantized();
    const QuantizedTensor& y = *right.quantized();
    equal = same(x.codes, y.codes) && same(x.scales, y.scales) && same(x.zero_points, y.zero_points) &&
            same(x.minimums, y.minimums) && same(x.group_index, y.group_index) &&
            same(x.codebook, y.codebook);
  } else if (equal) {
    PARE_TRY(const Tensor x, left.to_dense_tensor());
    PARE_TRY(const Tensor y, right.to_dense_tensor());
    equal = same(x, y);
  }
  source.release(head);
  if (!equal) return differs();
  return {};
}

// Everything in the file must belong to the model: a weight that pare does not know would silently be left
// out.
Status check_unexpected(const WeightSource& source, const Architecture& family, const std::string& path,
                        const std::unordered_set<std::string_view>& known) {
  std::string names;
  size_t count = 0;
  for (const StoredTensor& tensor : source.tensors()) {
    if (known.contains(tensor.name)) continue;
    const auto ignores = [&](std::string_view pattern) { return matches_pattern(pattern, tensor.name); };
    if (std::any_of(family.ignored.begin(), family.ignored.end(), ignores)) continue;
    if (count++ < kShownNames) names += (names.empty() ? "" : ", ") + quote(tensor.name);
  }
  if (count == 0) return {};
  if (count > kShownNames) names += fmt::format(" and {} more", count - kShownNames);
  return tensor_error("CF09", path, names, fmt::format("not a tensor of {}", family.name));
}

// CF12: foreign quantization would be read as plain weights.
Status check_quantization(const Json& config, const std::string& path) {
  const Json* value = config.find("quantization_config");
  if (value == nullptr || value->is_null()) return {};
  const Json* method = value->find("quant_method");
  return Error{.exit = Exit::unsupported,
               .rule = "CF12",
               .path = path,
               .where = config_where(value, "quantization_config.quant_method"),
               .what = "checkpoints quantized by other tools are not supported",
               .got = method == nullptr ? "nothing" : config_got(*method)};
}

// CF15, CF13: stop ids of generation_config.json join those of config.json.
Status read_generation_config(const WeightSource& source, const std::string& path, ModelConfig& config) {
  const Asset* asset = source.asset("generation_config.json");
  if (asset == nullptr) return {};
  const std::string asset_path = sibling(path, asset->name);
  PARE_TRY(const Json json,
           parse_json(asset->bytes, asset_path, {.max_bytes = limits::kConfigBytes}, "CF15"));
  return read_eos_ids(json, asset_path, config.vocabulary_size, config.eos_ids);
}

// A config without tensors to match is refused before thousands of blocks and experts are described.
Status check_tensor_count(const WeightSource& source, const ModelConfig& config) {
  int64_t experts = 0;
  for (const BlockConfig& block : config.blocks) experts += block.experts;
  const int64_t least = std::max(config.block_count(), experts);
  if (source.tensors().size() >= size_t(least)) return {};
  Error error =
      experts > config.block_count()
          ? tensor_error("CF09", source.path(), "num_hidden_layers, num_local_experts, tensors",
                         "fewer tensors than experts")
          : tensor_error("CF09", source.path(), "num_hidden_layers, tensors", "fewer tensors than layers");
  error.got = std::to_string(source.tensors().size());
  error.limit = fmt::format("at least {}", least);
  return error;
}

std::vector<TensorSpec> specs_under_prefix(const WeightSource& source, const Architecture& family,
                                           const ModelConfig& config) {
  for (const std::string_view prefix : family.prefixes) {
    std::vector<TensorSpec> specs = family.describe(config, prefix);
    if (source.find(specs.front().name) != nullptr) return specs;
  }
  return family.describe(config, family.prefixes.front());
}

}  // namespace

std::string_view site_name(Site site) {
  switch (site) {
    case Site::none:
      return "none";
    case Site::attention_in:
      return "attn.in";
    case Site::attention_out:
      return "attn.out";
    case Site::mlp_in:
      return "mlp.in";
    case Site::mlp_out:
      return "mlp.act";
    case Site::head_in:
      return "head.in";
  }
  return "none";
}

const TensorSpec* ModelDescription::find(std::string_view name) const {
  for (const TensorSpec& spec : tensors)
    if (spec.name == name) return &spec;
  return nullptr;
}

std::string site_text(Site site, int expert) {
  if (expert < 0) return std::string(site_name(site));
  return fmt::format("{} expert {}", site_name(site), expert);
}

const TensorSpec* ModelDescription::find(Role role, int block, int expert) const {
  // Execution order puts a block's tensors side by side.
  auto it = std::lower_bound(tensors.begin(), tensors.end(), block,
                             [](const TensorSpec& spec, int value) { return spec.block < value; });
  for (; it != tensors.end() && it->block == block; ++it)
    if (it->role == role && it->expert == expert) return &*it;
  return nullptr;
}

Result<ModelDescription> describe_model(const WeightSource& source) {
  const std::string json_path = config_path(source.path());
  PARE_CHECK(check_quantization(source.config(), json_path));
  PARE_TRY(const Json config, language_config(source.config(), json_path));
  ModelDescription result;
  PARE_TRY(result.architecture, find_architecture(config, json_path));
  const Architecture& family = *result.architecture;
  PARE_TRY(result.config, family.configure(config, json_path));
  PARE_CHECK(read_generation_config(source, json_path, result.config));

  PARE_CHECK(check_tensor_count(source, result.config));
  std::vector<TensorSpec> specs = specs_under_prefix(source, family, result.config);

  std::unordered_set<std::string_view> known;
  for (const TensorSpec& spec : specs) known.insert(spec.name);
  for (const TensorSpec& spec : specs) {
    const StoredTensor* stored = source.find(spec.name);
    if (stored == nullptr) {
      if (!spec.required) continue;
      if (spec.role == Role::lm_head)
        return tensor_error("CF16", source.path(), fmt::format("tie_word_embeddings, {}", quote(spec.name)),
                            "the model is not tied, but its head is missing");
      return tensor_error("CF09", source.path(), quote(spec.name), "required tensor missing");
    }
    // A bias has the rows of its owner, which stands right before it.
    const bool is_bias = spec.role == Role::bias && !result.tensors.empty();
    PARE_CHECK(
        check_tensor(source.path(), config, spec, is_bias ? result.tensors.back().role : spec.role, *stored));
    result.tensors.push_back(spec);
  }

  std::string head_name;
  if (result.config.tied_head) {
    ModelConfig untied = result.config;
    untied.tied_head = false;
    head_name = family.describe(untied, family.prefixes.front()).back().name;
    if (source.find(head_name) != nullptr) {
      PARE_CHECK(check_tied_head(source, source.path(), specs.front().name, head_name));
      known.insert(head_name);
    }
  }
  PARE_CHECK(check_unexpected(source, family, source.path(), known));

  if (config.find("dtype") == nullptr && config.find("torch_dtype") == nullptr)
    result.config.stored_dtype = source.find(specs.front().name)->dtype;
  if (const Json* code = config.find("auto_map"); code != nullptr && !code->is_null())
    log_warning(fmt::format("{}: auto_map: ignored, code of a model is never executed; using the built-in {}",
                            json_path, family.name));
  return result;
}

Result<std::vector<TensorSpec>> expected_tensors(const WeightSource& source) {
  const std::string json_path = config_path(source.path());
  PARE_TRY(const Json config, language_config(source.config(), json_path));
  PARE_TRY(const Architecture* family, find_architecture(config, json_path));
  PARE_TRY(ModelConfig model, family->configure(config, json_path));
  PARE_CHECK(check_tensor_count(source, model));
  const bool is_tied = model.tied_head;
  model.tied_head = false;
  std::vector<TensorSpec> specs = specs_under_prefix(source, *family, model);
  for (TensorSpec& spec : specs) {
    if (spec.role == Role::lm_head && is_tied) spec.required = false;
  }
  return specs;
}

}  // namespace pare
