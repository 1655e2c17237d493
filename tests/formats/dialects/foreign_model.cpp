#include "tests/formats/dialects/foreign_model.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "engine/core/random.h"
#include "engine/models/architecture.h"
#include "engine/tensor/float_formats.h"
#include "tests/formats/tiny_model.h"

namespace pare::test {

float Codes::weight(int64_t row, int64_t column) const {
  const int64_t at = row * groups + group_of[size_t(column)];
  return scale[size_t(at)] * float(code[size_t(row * in + column)] - zero_point[size_t(at)]);
}

Codes random_codes(const std::string& module, int64_t out, int64_t in, const CodesSpec& spec, uint64_t seed) {
  const Random random(seed, RandomPurpose::test_data, module);
  Codes codes{.module = module, .out = out, .in = in, .bits = spec.bits};
  const int64_t width = spec.group_size > 0 ? spec.group_size : in;
  codes.groups = (in + width - 1) / width;
  uint64_t counter = 0;
  for (int64_t i = 0; i < out * in; ++i) codes.code.push_back(int(random.below(1u << spec.bits, counter++)));
  for (int64_t i = 0; i < out * codes.groups; ++i) {
    codes.scale.push_back(float(1 + random.below(127, counter++)) / 1024.0f);
    const int span = (1 << spec.bits) - spec.lowest_zero_point;
    const int drawn = spec.lowest_zero_point + int(random.below(uint64_t(span), counter++));
    codes.zero_point.push_back(spec.symmetric ? 1 << (spec.bits - 1) : drawn);
  }
  for (int64_t i = 0; i < in; ++i)
    codes.group_of.push_back(int32_t(spec.act_order ? (i * 7 + 3) % in / width : i / width));
  return codes;
}

std::vector<uint32_t> pack_bits(const std::vector<int>& values, int bits, bool padded) {
  std::vector<bool> stream;
  for (const int value : values) {
    if (padded && stream.size() % 32 + size_t(bits) > 32)
      stream.resize((stream.size() + 31) / 32 * 32, false);
    for (int bit = 0; bit < bits; ++bit) stream.push_back((value >> bit & 1) != 0);
  }
  std::vector<uint32_t> words((stream.size() + 31) / 32, 0u);
  for (size_t i = 0; i < stream.size(); ++i) words[i / 32] |= uint32_t(stream[i]) << (i % 32);
  return words;
}

Tensor words_tensor(const std::vector<uint32_t>& words, const Shape& shape) {
  Tensor tensor = *Tensor::allocate(DType::i32, shape);
  EXPECT_EQ(tensor.numel(), int64_t(words.size()));
  std::copy(words.begin(), words.end(), tensor.mutable_data<uint32_t>());
  return tensor;
}

Tensor scale_tensor(const std::vector<float>& values, const Shape& shape, DType dtype) {
  Tensor wide = *Tensor::allocate(DType::f32, shape);
  EXPECT_EQ(wide.numel(), int64_t(values.size()));
  std::copy(values.begin(), values.end(), wide.mutable_data<float>());
  return *converted(wide, dtype);
}

Tensor byte_tensor(const std::vector<int>& values, const Shape& shape) {
  Tensor tensor = *Tensor::allocate(DType::i8, shape);
  EXPECT_EQ(tensor.numel(), int64_t(values.size()));
  for (size_t i = 0; i < values.size(); ++i) tensor.mutable_data<int8_t>()[i] = int8_t(values[i]);
  return tensor;
}

Tensor index_tensor(const std::vector<int32_t>& values) {
  Tensor tensor = *Tensor::allocate(DType::i32, {int64_t(values.size())});
  std::copy(values.begin(), values.end(), tensor.mutable_data<int32_t>());
  return tensor;
}

std::string llama_config(const std::string& quantization_config) {
  return fmt::format(R"({{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40,
 "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": true,
 "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
 "quantization_config": {}}})",
                     quantization_config);
}

std::shared_ptr<MemorySource> foreign_llama(const std::string& quantization_config, const CodesSpec& spec,
                                            std::vector<Codes>& linears,
                                            const std::function<void(MemorySource&, const Codes&)>& put) {
  auto source = std::make_shared<MemorySource>(llama_config(quantization_config));
  const Architecture* family = *find_architecture(source->config(), "memory");
  const ModelConfig config = *family->configure(source->config(), "memory");
  for (const TensorSpec& tensor : family->describe(config, "model.")) {
    if (!tensor.is_linear) {
      source->add(tensor.name, random_tensor(DType::bf16, tensor.shape, 3));
      continue;
    }
    const std::string module = tensor.name.substr(0, tensor.name.size() - 7);
    linears.push_back(random_codes(module, tensor.out(), tensor.in(), spec, 11));
    put(*source, linears.back());
  }
  return source;
}

namespace {

// values [rows, columns] seen by column
std::vector<int> turned(const std::vector<int>& values, int64_t rows, int64_t columns) {
  std::vector<int> result;
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t r = 0; r < rows; ++r) result.push_back(values[size_t(r * columns + c)]);
  return result;
}

// Packs each row of [rows, columns]; gives the words row by row.
std::vector<uint32_t> pack_rows(const std::vector<int>& values, int64_t rows, int bits, bool padded) {
  const size_t columns = values.size() / size_t(rows);
  std::vector<uint32_t> words;
  for (size_t r = 0; r < size_t(rows); ++r) {
    const std::vector<int> row(values.begin() + long(r * columns), values.begin() + long((r + 1) * columns));
    for (const uint32_t word : pack_bits(row, bits, padded)) words.push_back(word);
  }
  return words;
}

template <typename T>
std::vector<T> turned_words(const std::vector<T>& values, int64_t rows) {
  const int64_t columns = int64_t(values.size()) / rows;
  std::vector<T> result;
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t r = 0; r < rows; ++r) result.push_back(values[size_t(r * columns + c)]);
  return result;
}

}  // namespace

void put_gptq(MemorySource& source, const Codes& codes, bool is_v1) {
  const auto words = turned_words(pack_rows(codes.code, codes.out, codes.bits, false), codes.out);
  source.add(codes.module + ".qweight", words_tensor(words, {codes.in * codes.bits / 32, codes.out}));
  std::vector<int> points = turned(codes.zero_point, codes.out, codes.groups);
  for (int& point : points) point -= is_v1 ? 1 : 0;
  source.add(codes.module + ".qzeros", words_tensor(pack_rows(points, codes.groups, codes.bits, false),
                                                    {codes.groups, codes.out * codes.bits / 32}));
  source.add(codes.module + ".scales",
             scale_tensor(turned_words(codes.scale, codes.out), {codes.groups, codes.out}, DType::f16));
  source.add(codes.module + ".g_idx", index_tensor(codes.group_of));
}

void put_awq(MemorySource& source, const Codes& codes) {
  const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  const auto pack = [&](const std::vector<int>& values, int64_t rows, int64_t columns) {
    std::vector<uint32_t> words;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; c += 8) {
        uint32_t word = 0;
        for (int n = 0; n < 8; ++n) word |= uint32_t(values[size_t(r * columns + c + order[n])]) << (4 * n);
        words.push_back(word);
      }
    }
    return words_tensor(words, {rows, columns / 8});
  };
  source.add(codes.module + ".qweight", pack(turned(codes.code, codes.out, codes.in), codes.in, codes.out));
  source.add(codes.module + ".qzeros",
             pack(turned(codes.zero_point, codes.out, codes.groups), codes.groups, codes.out));
  source.add(codes.module + ".scales",
             scale_tensor(turned_words(codes.scale, codes.out), {codes.groups, codes.out}, DType::f16));
}

void put_packed(MemorySource& source, const Codes& codes, bool symmetric, bool padded) {
  const auto words = pack_rows(codes.code, codes.out, codes.bits, padded);
  const int64_t width = int64_t(words.size()) / codes.out;
  source.add(codes.module + ".weight_packed", words_tensor(words, {codes.out, width}));
  source.add(codes.module + ".weight_scale",
             scale_tensor(codes.scale, {codes.out, codes.groups}, DType::bf16));
  Tensor shape = *Tensor::allocate(DType::i64, {2});
  shape.mutable_data<int64_t>()[0] = codes.out;
  shape.mutable_data<int64_t>()[1] = codes.in;
  source.add(codes.module + ".weight_shape", shape);
  if (symmetric) return;
  const auto by_group =
      pack_rows(turned(codes.zero_point, codes.out, codes.groups), codes.groups, codes.bits, padded);
  const auto zeros = turned_words(by_group, codes.groups);
  source.add(codes.module + ".weight_zero_point",
             words_tensor(zeros, {int64_t(zeros.size()) / codes.groups, codes.groups}));
}

void put_plain(MemorySource& source, const Codes& codes, bool symmetric) {
  const int half = 1 << (codes.bits - 1);
  std::vector<int> values = codes.code, points = codes.zero_point;
  for (int& value : values) value -= half;
  for (int& point : points) point -= half;
  source.add(codes.module + ".weight", byte_tensor(values, {codes.out, codes.in}));
  source.add(codes.module + ".weight_scale",
             scale_tensor(codes.scale, {codes.out, codes.groups}, DType::bf16));
  if (!symmetric)
    source.add(codes.module + ".weight_zero_point", byte_tensor(points, {codes.out, codes.groups}));
}

std::string compare(const WeightSource& source, const std::vector<Codes>& linears) {
  for (const Codes& codes : linears) {
    const auto loaded = source.load(codes.module + ".weight");
    if (!loaded) return format_error(loaded.error());
    if (!loaded->is_quantized()) return codes.module + " is not quantized";
    const Tensor values = *loaded->quantized()->dequantize();
    for (int64_t row = 0; row < codes.out; ++row) {
      for (int64_t column = 0; column < codes.in; ++column) {
        const float found = values.data<float>()[row * codes.in + column];
        if (found != codes.weight(row, column))
          return fmt::format("{}[{},{}]: {} instead of {}", codes.module, row, column, found,
                             codes.weight(row, column));
      }
    }
  }
  return "";
}

std::string compressed_config(const std::string& format, const std::string& weights,
                              const std::string& inputs, const std::string& more) {
  return fmt::format(
      R"({{"quant_method":"compressed-tensors","format":"{}","quantization_status":"compressed",
 "ignore":["lm_head"],{} "config_groups":{{"group_0":{{"targets":["Linear"],"weights":{},
 "input_activations":{},"output_activations":null}}}}}})",
      format, more, weights, inputs);
}

}  // namespace pare::test
