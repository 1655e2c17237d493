// tests/support/tiny_model.h: a small random model of an enabled family, made without any file.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "engine/core/random.h"
#include "engine/models/architecture.h"
#include "tests/support/memory_source.h"
#include "tests/support/walk.h"

namespace pare::test {

inline Tensor random_normal(const Shape& shape, const std::string& name, float mean, float deviation) {
  const Random random(7, RandomPurpose::test_data, name);
  Tensor tensor = checked(Tensor::allocate(DType::f32, shape));
  for (int64_t i = 0; i < tensor.numel(); ++i)
    tensor.mutable_data<float>()[i] = mean + deviation * random.normal(uint64_t(i));
  return tensor;
}

// Codes of the nearest multiples of amax / 127 per row; what matters here is only that the tensor is valid.
inline QuantizedTensor int8_of(const Tensor& weight) {
  const QuantScheme scheme = checked(QuantScheme::parse("int8-ch-sf32"));
  QuantizedTensor quantized = checked(QuantizedTensor::allocate(scheme, weight.size(0), weight.size(1)));
  const int64_t columns = weight.size(1);
  for (int64_t row = 0; row < weight.size(0); ++row) {
    const float* w = weight.data<float>() + row * columns;
    float largest = 0.0f;
    for (int64_t i = 0; i < columns; ++i) largest = std::max(largest, std::fabs(w[i]));
    const float scale = largest / 127.0f;
    quantized.scales.mutable_data<float>()[row] = scale;
    for (int64_t i = 0; i < columns; ++i)
      quantized.codes.mutable_data<uint8_t>()[row * columns + i] =
          uint8_t(int(std::lround(w[i] / scale)) + 128);
  }
  return quantized;
}

// Fills a source with random tensors of the right names and shapes; norms are near 1, the rest small.
inline std::shared_ptr<MemorySource> tiny_model(const std::string& config_text) {
  auto source = std::make_shared<MemorySource>(config_text);
  const Architecture* family = checked(find_architecture(source->config(), "tiny"));
  const ModelConfig config = checked(family->configure(source->config(), "tiny"));
  for (const TensorSpec& spec : family->describe(config, family->prefixes.front())) {
    const bool is_gain = spec.shape.rank() == 1 && spec.name.ends_with("weight");
    source->add(spec.name, random_normal(spec.shape, spec.name, is_gain ? 1.0f : 0.0f, 0.1f));
  }
  return source;
}

inline constexpr const char* kTinyLlama = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40, "hidden_size": 24,
  "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
  "max_position_embeddings": 64, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2})";
inline constexpr const char* kTinyGpt2 = R"({
  "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 40, "n_embd": 24, "n_layer": 2, "n_head": 3,
  "n_positions": 32})";
inline constexpr const char* kTinyMixtral = R"({
  "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 40, "hidden_size": 24,
  "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
  "num_local_experts": 5, "num_experts_per_tok": 2, "max_position_embeddings": 64})";

}  // namespace pare::test
