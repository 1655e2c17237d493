// Blocks of every type: values by the formulas of docs/interop.md, written here a second time, from the
// bytes.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "engine/tensor/float_formats.h"
#include "formats/gguf/block_layout.h"
#include "formats/gguf/exact_blocks.h"
#include "formats/gguf/tensor_data.h"

namespace pare::test {
namespace {

float half_at(const uint8_t* b, int at) {
  return f16_to_float(uint16_t(b[at] | (b[at + 1] << 8)));
}

// The value of weight i of a block, straight from the table of the format.
float value_of(GgufType type, const uint8_t* b, int i) {
  const int s = i / 16, j = i / 32, l = i % 32, h = i / 128, t = (i % 128) / 32;
  const auto nibble = [&](int base) { return i < 16 ? b[base + i] & 15 : b[base + i - 16] >> 4; };
  const auto fifth = [&](int base) { return ((b[base + i / 8] >> (i % 8)) & 1) << 4; };
  const auto scale_k4 = [&](int k) {
    const uint8_t* c = b + 4;
    return k < 4 ? c[k] & 63 : (c[k + 4] & 15) | ((c[k - 4] >> 6) << 4);
  };
  const auto min_k4 = [&](int k) {
    const uint8_t* c = b + 4;
    return k < 4 ? c[k + 4] & 63 : (c[k + 4] >> 4) | ((c[k] >> 6) << 4);
  };
  switch (type) {
    case GgufType::q4_0:
      return half_at(b, 0) * float(nibble(2) - 8);
    case GgufType::q4_1:
      return half_at(b, 0) * float(nibble(4)) + half_at(b, 2);
    case GgufType::q5_0:
      return half_at(b, 0) * float((nibble(6) | fifth(2)) - 16);
    case GgufType::q5_1:
      return half_at(b, 0) * float(nibble(8) | fifth(4)) + half_at(b, 2);
    case GgufType::q8_0:
      return half_at(b, 0) * float(int8_t(b[2 + i]));
    case GgufType::q2_k: {
      const int q = (b[16 + 32 * h + l] >> (2 * t)) & 3;
      return half_at(b, 80) * float(b[s] & 15) * float(q) - half_at(b, 82) * float(b[s] >> 4);
    }
    case GgufType::q3_k: {
      const int q = ((b[32 + 32 * h + l] >> (2 * t)) & 3) - ((b[l] >> j) & 1 ? 0 : 4);
      const uint8_t* c = b + 96;
      const int scale = (s < 8 ? c[s] & 15 : c[s - 8] >> 4) + (((c[8 + s % 4] >> (2 * (s / 4))) & 3) << 4);
      return half_at(b, 108) * float(scale - 32) * float(q);
    }
    case GgufType::q4_k:
    case GgufType::q5_k: {
      const uint8_t* qs = b + (type == GgufType::q4_k ? 16 : 48);
      int q = qs[32 * (i / 64) + l];
      q = j % 2 == 0 ? q & 15 : q >> 4;
      if (type == GgufType::q5_k) q += 16 * ((b[16 + l] >> j) & 1);
      return half_at(b, 0) * float(scale_k4(j)) * float(q) - half_at(b, 2) * float(min_k4(j));
    }
    case GgufType::q6_k: {
      const int pair = b[64 * h + l + 32 * (t & 1)];
      const int q = ((t < 2 ? pair & 15 : pair >> 4) | (((b[128 + 32 * h + l] >> (2 * t)) & 3) << 4)) - 32;
      return half_at(b, 208) * float(int8_t(b[192 + s])) * float(q);
    }
    default:
      return NAN;
  }
}

std::vector<int> half_positions(GgufType type) {
  switch (type) {
    case GgufType::q2_k:
      return {80, 82};
    case GgufType::q3_k:
      return {108};
    case GgufType::q6_k:
      return {208};
    case GgufType::q4_0:
    case GgufType::q5_0:
    case GgufType::q8_0:
      return {0};
    default:
      return {0, 2};
  }
}

class GgufBlocks : public testing::TestWithParam<GgufType> {
 protected:
  // Every bit pattern, scales finite and of both signs.
  std::vector<uint8_t> random_bytes(int blocks) const {
    const auto& info = gguf_type_info(GetParam());
    std::mt19937 random(11);
    std::vector<uint8_t> bytes(size_t(blocks) * info.block_bytes);
    for (uint8_t& byte : bytes) byte = uint8_t(random());
    for (int b = 0; b < blocks; ++b) {
      for (const int at : half_positions(GetParam())) {
        const float value = (float(random() % 2001) - 1000.0f) / 5000.0f;
        // a negative scale with code -128 is the one thing Q8_0 refuses
        const uint16_t half = float_to_f16(GetParam() == GgufType::q8_0 ? std::abs(value)
                                           : b == 3                     ? 0.0f
                                                                        : value);
        std::memcpy(bytes.data() + size_t(b) * info.block_bytes + at, &half, 2);
      }
    }
    return bytes;
  }
};

TEST_P(GgufBlocks, DequantizeToTheValuesOfTheFormat) {
  const auto& info = gguf_type_info(GetParam());
  const int rows = 6, per_row = 2, width = int(info.block_elements);
  const std::vector<uint8_t> bytes = random_bytes(rows * per_row);
  GgufTensor tensor{"w", GetParam(), Shape{rows, per_row * width}, 0, bytes.size()};
  const auto loaded = load_gguf_tensor(tensor, std::as_bytes(std::span(bytes)), nullptr, {}, "test");
  ASSERT_TRUE(loaded) << format_error(loaded.error());
  const QuantizedTensor& quantized = *loaded->quantized();
  EXPECT_TRUE(quantized.validate("test", "w"));
  const Tensor dense = quantized.dequantize().value();
  for (int64_t i = 0; i < dense.numel(); ++i) {
    const auto block = size_t(i / width);
    ASSERT_EQ(dense.data<float>()[i],
              value_of(GetParam(), bytes.data() + block * info.block_bytes, int(i % width)))
        << info.name << " weight " << i;
  }
}

TEST_P(GgufBlocks, PackGivesTheBytesBack) {
  const auto& info = gguf_type_info(GetParam());
  const std::vector<uint8_t> bytes = random_bytes(50);
  std::vector<std::byte> again(info.block_bytes, std::byte{0xff});
  for (size_t b = 0; b < 50; ++b) {
    BlockCodes block;
    const auto from = std::as_bytes(std::span(bytes)).subspan(b * info.block_bytes, info.block_bytes);
    unpack_gguf_block(GetParam(), from.data(), block);
    pack_gguf_block(GetParam(), block, again.data());
    ASSERT_EQ(std::memcmp(from.data(), again.data(), info.block_bytes), 0) << info.name;
  }
}

TEST_P(GgufBlocks, CodesOfOneLevelAreWrittenBackAsTheyAre) {
  const auto& info = gguf_type_info(GetParam());
  std::vector<uint8_t> bytes = random_bytes(3);  // block 3 with a scale of zero left out: it becomes 1
  GgufTensor tensor{"w", GetParam(), Shape{3, int64_t(info.block_elements)}, 0, bytes.size()};
  const auto loaded = load_gguf_tensor(tensor, std::as_bytes(std::span(bytes)), nullptr, {}, "test").value();
  ASSERT_EQ(holds_exactly(GetParam(), *loaded.quantized()), !info.blocks->has_two_levels());
  if (info.blocks->has_two_levels()) return;
  for (int64_t row = 0; row < 3; ++row) {
    std::vector<std::byte> again(info.block_bytes);
    exact_row(GetParam(), *loaded.quantized(), row, again.data());
    EXPECT_EQ(std::memcmp(again.data(), bytes.data() + size_t(row) * info.block_bytes, info.block_bytes), 0)
        << row;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GgufBlocks,
                         testing::Values(GgufType::q4_0, GgufType::q4_1, GgufType::q5_0, GgufType::q5_1,
                                         GgufType::q8_0, GgufType::q2_k, GgufType::q3_k, GgufType::q4_k,
                                         GgufType::q5_k, GgufType::q6_k),
                         [](const auto& info) { return std::string(gguf_type_info(info.param).name); });

}  // namespace
}  // namespace pare::test
