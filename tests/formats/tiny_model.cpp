#include "tests/formats/tiny_model.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "engine/core/random.h"
#include "engine/tensor/float_formats.h"
#include "tests/support/random_sparse.h"

namespace pare::test {
namespace {

void store_float(const Tensor& tensor, int64_t index, float value) {
  switch (tensor.dtype()) {
    case DType::f32:
      tensor.mutable_data<float>()[index] = value;
      break;
    case DType::f64:
      tensor.mutable_data<double>()[index] = value;
      break;
    case DType::bf16:
      tensor.mutable_data<uint16_t>()[index] = float_to_bf16(value);
      break;
    case DType::f16:
      tensor.mutable_data<uint16_t>()[index] = float_to_f16(value);
      break;
    case DType::f8_e4m3:
      tensor.mutable_data<uint8_t>()[index] = float_to_f8_e4m3(value);
      break;
    case DType::f8_e5m2:
      tensor.mutable_data<uint8_t>()[index] = float_to_f8_e5m2(value);
      break;
    default:
      FAIL() << "not a floating type";
  }
}

bool has_float_values(DType dtype) {
  return is_weight_dtype(dtype) || dtype == DType::f64;
}

void fill_positive(const Tensor& tensor, uint64_t seed) {
  const Random random(seed, RandomPurpose::test_data);
  for (int64_t i = 0; i < tensor.numel(); ++i) store_float(tensor, i, 0.01f + random.uniform(uint64_t(i)));
}

}  // namespace

Tensor random_tensor(DType dtype, const Shape& shape, uint64_t seed) {
  const Random random(seed, RandomPurpose::test_data);
  Tensor tensor = *Tensor::allocate(dtype, shape);
  if (has_float_values(dtype)) {
    for (int64_t i = 0; i < tensor.numel(); ++i) store_float(tensor, i, random.normal(uint64_t(i)));
    return tensor;
  }
  auto* bytes = tensor.mutable_raw();
  const uint32_t mask = dtype == DType::boolean ? 1u : dtype == DType::f8_e8m0 ? 0x7fu : 0xffu;
  for (size_t i = 0; i < tensor.size_bytes(); ++i) bytes[i] = std::byte(random.bits(i)[0] & mask);
  if (dtype == DType::c64) std::memset(bytes, 0, tensor.size_bytes());
  return tensor;
}

QuantizedTensor random_quantized(const QuantScheme& scheme, int64_t out, int64_t in, uint64_t seed) {
  const Random random(seed, RandomPurpose::test_data);
  QuantizedTensor tensor = *QuantizedTensor::allocate(scheme, out, in);
  std::vector<uint8_t> codes(static_cast<size_t>(in));
  const int low = scheme.kind == QuantScheme::Kind::integer && scheme.is_symmetric()
                      ? 1
                      : 0;  // 0 is not on a narrow grid
  const int high = scheme.kind == QuantScheme::Kind::floating ? 0x77 : scheme.code_count() - 1;
  for (int64_t row = 0; row < out; ++row) {
    for (int64_t i = 0; i < in; ++i)
      codes[size_t(i)] = uint8_t(low + random.below(uint64_t(high - low + 1), uint64_t(row * in + i)));
    pack_codes(codes.data(), in, scheme.bits,
               tensor.codes.mutable_data<uint8_t>() + row * scheme.row_bytes(in));
  }
  fill_positive(tensor.scales, seed + 1);
  if (tensor.minimums.defined()) fill_positive(tensor.minimums, seed + 2);
  for (int64_t i = 0; tensor.zero_points.defined() && i < tensor.zero_points.numel(); ++i) {
    tensor.zero_points.mutable_data<uint8_t>()[i] = uint8_t(i % scheme.code_count());
  }
  for (int64_t i = 0; tensor.codebook.defined() && i < tensor.codebook.numel(); ++i)
    tensor.codebook.mutable_data<float>()[i] = float(i);
  return tensor;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  if (a.defined() != b.defined()) return false;
  if (!a.defined()) return true;
  if (a.dtype() != b.dtype() || !(a.shape() == b.shape())) return false;
  return a.size_bytes() == 0 || std::memcmp(a.raw(), b.raw(), a.size_bytes()) == 0;
}

bool same_bytes(const QuantizedTensor& a, const QuantizedTensor& b) {
  return a.scheme == b.scheme && a.shape == b.shape && same_bytes(a.codes, b.codes) &&
         same_bytes(a.scales, b.scales) && same_bytes(a.zero_points, b.zero_points) &&
         same_bytes(a.minimums, b.minimums) && same_bytes(a.group_index, b.group_index) &&
         same_bytes(a.codebook, b.codebook);
}

NamedWeights tiny_weights() {
  const auto quantized = [](const char* scheme, int64_t out, int64_t in, uint64_t seed) {
    return std::make_shared<const QuantizedTensor>(
        random_quantized(*QuantScheme::parse(scheme), out, in, seed));
  };
  NamedWeights weights;
  weights.emplace_back("embed.weight", WeightData{random_tensor(DType::bf16, {5, 7}, 1), false});
  weights.emplace_back("up.weight", WeightData{quantized("int4-g8", 3, 19, 2), false});
  weights.emplace_back("down.weight", WeightData{quantized("int8-ch", 4, 6, 3), true});
  weights.emplace_back("norm.weight", WeightData{random_tensor(DType::f32, {7}, 4), false});
  weights.emplace_back("empty", WeightData{random_tensor(DType::f32, {0, 3}, 5), false});
  weights.emplace_back("scalar", WeightData{random_tensor(DType::i64, {}, 6), false});
  return weights;
}

NamedWeights form_weights() {
  NamedWeights weights;
  const auto values = [](const char* pattern, DType dtype, int64_t out, int64_t in, uint64_t seed) {
    return std::make_shared<const SparseTensor>(
        *SparseTensor::from_dense(random_matrix(dtype, out, in, seed),
                                  random_mask(pattern_of(pattern), out, in, 0.5, seed), pattern_of(pattern)));
  };
  const auto codes = [](const char* pattern, const char* scheme, int64_t out, int64_t in, uint64_t seed) {
    return std::make_shared<const SparseTensor>(*SparseTensor::from_quantized(
        random_codes(scheme, out, in, seed), random_mask(pattern_of(pattern), out, in, 0.5, seed),
        pattern_of(pattern)));
  };
  const auto product = [](DType dtype, int64_t out, int64_t rank, int64_t in, LowRankTensor::Base base) {
    LowRankTensor tensor;
    tensor.shape = Shape{out, in};
    tensor.left = random_matrix(dtype, out, rank, 21);
    tensor.right = random_matrix(dtype, rank, in, 22);
    tensor.base = std::move(base);
    return std::make_shared<const LowRankTensor>(std::move(tensor));
  };
  weights.emplace_back("loose", WeightData{values("unstructured", DType::bf16, 5, 11, 1), false});
  weights.emplace_back("half", WeightData{values("2:4", DType::f32, 3, 10, 2), false});
  weights.emplace_back("blocks", WeightData{values("block-2x4", DType::f16, 5, 10, 3), true});
  weights.emplace_back("half_codes", WeightData{codes("2:4", "int4-g8-asym", 3, 16, 4), true});
  weights.emplace_back("loose_codes", WeightData{codes("unstructured", "int3-g8", 4, 9, 5), false});
  weights.emplace_back("product", WeightData{product(DType::f32, 4, 2, 6, {}), false});
  weights.emplace_back(
      "repaired",
      WeightData{product(DType::bf16, 3, 1, 16,
                         std::make_shared<const QuantizedTensor>(random_codes("int4-g8-asymf", 3, 16, 6))),
                 false});
  weights.emplace_back("repaired_half",
                       WeightData{product(DType::f16, 3, 2, 8, values("2:4", DType::bf16, 3, 8, 7)), true});
  weights.emplace_back("repaired_dense",
                       WeightData{product(DType::f32, 2, 1, 3, random_matrix(DType::bf16, 2, 3, 8)), false});
  return weights;
}

CreateOptions tiny_options() {
  CreateOptions options;
  options.config_text =
      "{\n  \"model_type\": \"tiny\",\n  \"torch_dtype\": \"bfloat16\",\n  \"eps\": 1e-05\n}\n";
  options.assets = {{"tokenizer.json", std::string(300, 'x') + "{}"}, {"LICENSE", "free"}};
  return options;
}

void write_model(const std::string& path, const NamedWeights& weights, const CreateOptions& options) {
  auto sink = create_model(path, options);
  ASSERT_TRUE(sink) << format_error(sink.error());
  for (const auto& [name, weight] : weights) {
    const Status put = (*sink)->put(name, weight);
    ASSERT_TRUE(put) << format_error(put.error());
  }
  const Status finished = (*sink)->finish(Manifest{});
  ASSERT_TRUE(finished) << format_error(finished.error());
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace pare::test
