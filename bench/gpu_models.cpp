#include "bench/gpu_models.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <map>
#include <utility>

#include "bench/model_case.h"
#include "engine/core/hash.h"
#include "engine/core/limits.h"
#include "engine/core/parallel.h"
#include "engine/core/version.h"
#include "engine/models/architecture.h"
#include "engine/models/weight_sink.h"
#include "engine/tensor/float_formats.h"
#include "formats/create_model.h"
#include "gpu_shapes.h"  // of the build folder

namespace pare::bench {
namespace {

constexpr int64_t kPiece = int64_t{1} << 16;  // words of 64 bits
constexpr float kDeviation = 0.02f;

struct MadeShape {
  std::string name;
  int64_t hidden, intermediate, blocks, heads, kv_heads, head_dim, vocabulary, positions;
  bool tied;
};

// Those of gpu_shapes.json, which the scripts read too.
const std::vector<MadeShape>& shapes() {
  static const std::vector<MadeShape> list = [] {
    std::vector<MadeShape> read;
    const Json json =
        require(parse_json(kShapesJson, "gpu_shapes.json", {.max_bytes = limits::kConfigBytes}));
    for (const auto& [name, sizes] : json.members()) {
      const auto at = [&](size_t i) { return sizes[i].as_int(); };
      read.push_back({name, at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), sizes[8].as_bool()});
    }
    return read;
  }();
  return list;
}

std::string config_of(const MadeShape& s) {
  return fmt::format(
      R"({{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
 "hidden_size": {}, "intermediate_size": {}, "num_hidden_layers": {}, "num_attention_heads": {},
 "num_key_value_heads": {}, "head_dim": {}, "vocab_size": {}, "max_position_embeddings": {},
 "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": {}}}
)",
      s.hidden, s.intermediate, s.blocks, s.heads, s.kv_heads, s.head_dim, s.vocabulary, s.positions, s.tied);
}

// splitmix64; Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
uint64_t mixed(uint64_t i) {
  i *= 0x9e3779b97f4a7c15u;
  i = (i ^ (i >> 30)) * 0xbf58476d1ce4e5b9u;
  i = (i ^ (i >> 27)) * 0x94d049bb133111ebu;
  return i ^ (i >> 31);
}

uint64_t seed_of(std::string_view name) {
  uint64_t seed = 0x243f6a8885a308d3u;
  for (const char c : name) seed = (seed ^ uint8_t(c)) * 0x100000001b3u;
  return seed;
}

// Word i of `bytes` becomes value(random word); the last one may be cut.
template <typename Value>
void fill_words(std::byte* to, size_t bytes, uint64_t seed, Value value) {
  parallel_ranges(int64_t((bytes + 7) / 8), kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t word = value(mixed(seed + uint64_t(i)));
      std::memcpy(to + 8 * i, &word, std::min<size_t>(8, bytes - size_t(8 * i)));
    }
  });
}

// Four numbers of a uniform distribution in bf16, by cutting off what does not fit.
uint64_t four_bf16(uint64_t random) {
  constexpr float kStep = kDeviation * 1.7320508f / 32768.0f;
  uint64_t word = 0;
  for (int i = 0; i < 4; ++i) {
    const float value = kStep * float(int16_t(random >> (16 * i)));
    word |= uint64_t(std::bit_cast<uint32_t>(value) >> 16) << (16 * i);
  }
  return word;
}

Result<Tensor> dense(const TensorSpec& spec) {
  PARE_TRY(Tensor tensor, Tensor::allocate(DType::bf16, spec.shape));
  if (spec.shape.rank() == 1) {
    const uint16_t one = float_to_bf16(1.0f);
    std::fill_n(tensor.mutable_data<uint16_t>(), tensor.numel(), one);
  } else {
    fill_words(tensor.mutable_raw(), tensor.size_bytes(), seed_of(spec.name), four_bf16);
  }
  return tensor;
}

Result<QuantizedTensor> codes(const TensorSpec& spec, const QuantScheme& scheme) {
  PARE_TRY(QuantizedTensor tensor, QuantizedTensor::allocate(scheme, spec.out(), spec.in()));
  // The lowest code of a byte has no counterpart and is not used.
  const uint64_t always = scheme.bits == 8 ? 0x0101010101010101u : 0u;
  fill_words(tensor.codes.mutable_raw(), tensor.codes.size_bytes(), seed_of(spec.name),
             [&](uint64_t random) { return random | always; });
  const auto scale = kDeviation / (float(scheme.code_count()) / 3.4641016f);
  std::fill_n(tensor.scales.mutable_data<uint16_t>(), tensor.scales.numel(), float_to_f16(scale));
  return tensor;
}

TensorRecord record_of(const StoredTensor& stored) {
  TensorRecord record;
  record.name = stored.name;
  record.kind = stored.form_name();
  record.scheme = stored.scheme ? stored.scheme->text() : std::string(dtype_name(stored.dtype));
  record.shape.assign(stored.shape.sizes().begin(), stored.shape.sizes().end());
  record.method_asked = record.method_applied = "made";
  return record;
}

class MadeSource final : public WeightSource {
 public:
  static Result<std::shared_ptr<const WeightSource>> create(const MadeShape& shape, const std::string& form) {
    auto source = std::make_shared<MadeSource>();
    source->path_ = fmt::format("{}/{}", shape.name, form);
    source->config_text_ = config_of(shape);
    PARE_TRY(source->config_,
             parse_json(source->config_text_, source->path_, {.max_bytes = limits::kConfigBytes}, "CF01"));
    PARE_TRY(const Architecture* family, find_architecture(source->config_, source->path_));
    PARE_TRY(const ModelConfig config, family->configure(source->config_, source->path_));
    for (const TensorSpec& spec : family->describe(config, family->prefixes.front())) {
      PARE_TRY(const std::string text, scheme_of(shape, form, spec));
      StoredTensor tensor;
      tensor.name = spec.name;
      tensor.dtype = DType::bf16;
      tensor.shape = spec.shape;
      tensor.bytes = uint64_t(spec.shape.numel()) * 2;
      if (!text.empty()) {
        PARE_TRY(tensor.scheme, QuantScheme::parse(text));
        tensor.dtype = tensor.scheme->scale_dtype;
        tensor.bytes = tensor.scheme->stored_bytes(spec.out(), spec.in());
      }
      source->tensors_.push_back(std::move(tensor));
      source->specs_[spec.name] = spec;
    }
    return std::shared_ptr<const WeightSource>(std::move(source));
  }

  const std::string& path() const override { return path_; }
  std::string_view format_name() const override { return "made"; }
  const Json& config() const override { return config_; }
  const std::string& config_text() const override { return config_text_; }
  const std::vector<Asset>& assets() const override { return assets_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const StoredTensor* find(std::string_view name) const override {
    for (const StoredTensor& tensor : tensors_)
      if (tensor.name == name) return &tensor;
    return nullptr;
  }
  Result<WeightData> load(std::string_view name) const override {
    const auto found = specs_.find(name);
    const StoredTensor* stored = find(name);
    if (found == specs_.end() || stored == nullptr)
      return Error{.exit = Exit::malformed,
                   .rule = "ST26",
                   .path = path_,
                   .where = std::string(name),
                   .what = "no such tensor"};
    WeightData data;
    if (stored->scheme) {
      PARE_TRY(QuantizedTensor tensor, codes(found->second, *stored->scheme));
      data.form = std::make_shared<const QuantizedTensor>(std::move(tensor));
    } else {
      PARE_TRY(data.form, dense(found->second));
    }
    return data;
  }
  void release(std::string_view) const override {}
  Status check_unchanged() const override { return {}; }
  std::vector<std::pair<uint64_t, uint64_t>> file_identities() const override { return {}; }
  Result<Json> hash_inputs() const override { return Json::array(); }

 private:
  // Scheme of a tensor, empty: dense. Exit 2.
  static Result<std::string> scheme_of(const MadeShape& shape, const std::string& form,
                                       const TensorSpec& spec) {
    const bool is_head = spec.role == Role::lm_head || (spec.role == Role::embedding && shape.tied);
    const std::string int4 = shape.hidden % 128 == 0 ? "int4-g128" : "int4-g64";
    std::string blocks, head;
    if (form == "w8") {
      blocks = "int8-ch";
    } else if (form.starts_with("w4")) {
      blocks = int4;
      head = form == "w4+head8" ? "int8-ch" : form == "w4+head4" ? int4 : "";
    }
    if (form != "bf16" && form != "w8" && form != "w4" && head.empty())
      return Error{.exit = Exit::usage, .what = "no such form of a made model", .got = form};
    return is_head ? head : spec.is_linear ? blocks : std::string();
  }

  std::string path_, config_text_;
  Json config_;
  std::vector<Asset> assets_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, TensorSpec, std::less<>> specs_;
};

}  // namespace

const std::vector<std::string>& made_shapes() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const MadeShape& shape : shapes()) list.push_back(shape.name);
    return list;
  }();
  return names;
}

Result<std::shared_ptr<const WeightSource>> made_model(const std::string& shape, const std::string& form) {
  for (const MadeShape& made : shapes())
    if (made.name == shape) return MadeSource::create(made, form);
  return Error{.exit = Exit::usage,
               .what = "no such shape of a made model",
               .got = shape,
               .limit = fmt::format("{}", fmt::join(made_shapes(), ", ")),
               .limit_label = "one of"};
}

Status write_made_model(const std::string& shape, const std::string& form, const std::string& path) {
  PARE_TRY(const std::shared_ptr<const WeightSource> source, made_model(shape, form));
  CreateOptions options;
  options.write.force = true;
  options.config_text = source->config_text();
  for (const StoredTensor& tensor : source->tensors()) options.expected_bytes += tensor.bytes;
  options.dense_dtype = DType::bf16;
  PARE_TRY(const std::unique_ptr<WeightSink> sink, create_model(path, options));
  Manifest manifest;
  manifest.program_version = kVersion;
  manifest.command = "make-model";
  for (const StoredTensor& stored : source->tensors()) {
    PARE_TRY(const WeightData weight, source->load(stored.name));
    PARE_CHECK(sink->put(stored.name, weight));
    manifest.tensors.push_back(record_of(stored));
  }
  return sink->finish(manifest);
}

}  // namespace pare::bench
