// Rows of every width that kernels treat apart, at every alignment; tokens in many chunks; rows of caches.
#include <cmath>
#include <limits>

#include "engine/tensor/float_formats.h"
#include "engine/tensor/kv_quant.h"
#include "tests/engine/backends/training_support.h"

namespace pare::test {
namespace {

using RowsTest = BackendTest;
PARE_INSTANTIATE_BACKENDS(RowsTest);
using TrainingRowsTest = TrainingTest;
PARE_INSTANTIATE_BACKENDS(TrainingRowsTest);

// Half a warp, a warp and a block to a row; in registers and beyond them.
const std::vector<int64_t> kWidths{64,   68,   128,  132,  512,  513,  1024,  1028,
                                   2048, 2050, 4096, 4100, 8192, 8196, 16384, 16389};

TEST_P(RowsTest, NormsOfEveryWidthDoNotDependOnAlignment) {
  for (const int64_t channels : kWidths) {
    SCOPED_TRACE(channels);
    const Tensor x = uniform({3, channels}, 1, -2.0f, 3.0f), gain = uniform({channels}, 2);
    const Tensor bias = uniform({channels}, 3);
    Tensor out = zeros(DType::f32, {3, channels});
    Padded odd(x, 5), odd_out(3, channels, 7);
    ops::rms_norm(x, gain, 1e-5f, false, out);
    ops::rms_norm(odd.view(), gain, 1e-5f, false, odd_out.view());
    EXPECT_TRUE(same_bits(out, odd_out.view())) << "rms";
    ops::layer_norm(x, gain, bias, 1e-5f, out);
    ops::layer_norm(odd.view(), gain, bias, 1e-5f, odd_out.view());
    EXPECT_TRUE(same_bits(out, odd_out.view())) << "layer";
    EXPECT_TRUE(odd_out.padding_is_intact());
  }
}

TEST_P(RowsTest, SoftmaxOfEveryWidthDoesNotDependOnAlignment) {
  for (const int64_t columns : kWidths) {
    SCOPED_TRACE(columns);
    const Tensor x = uniform({2, columns}, 4, -30.0f, 30.0f);
    Tensor out = zeros(DType::f32, {2, columns});
    Padded odd(x, 5), odd_out(2, columns, 7);
    ops::softmax(x, out);
    ops::softmax(odd.view(), odd_out.view());
    EXPECT_TRUE(same_bits(out, odd_out.view()));
    EXPECT_TRUE(odd_out.padding_is_intact());
  }
}

TEST_P(RowsTest, MaskedScoresHaveNoProbability) {
  for (const int64_t columns : {5, 129, 5000, 17000}) {
    Tensor x = uniform({1, columns}, 5), out = zeros(DType::f32, {1, columns});
    for (int64_t c = 0; c + 3 < columns; ++c)
      x.mutable_data<float>()[c] = -std::numeric_limits<float>::infinity();
    ops::softmax(x, out);
    double sum = 0.0;
    for (int64_t c = 0; c < columns; ++c) {
      sum += value_at(out, 0, c);
      if (c + 3 < columns) {
        ASSERT_EQ(value_at(out, 0, c), 0.0) << c << " of " << columns;
      }
    }
    EXPECT_NEAR(sum, 1.0, 1e-6);
  }
}

TEST_P(RowsTest, QuantizedEmbeddingWithGroupIndexAndOwnCodebook) {
  for (const char* text : {"int4-g32-asym", "int3-g16", "int8-g64-asymf", "nf4-g32"}) {
    const QuantScheme scheme = *QuantScheme::parse(text);
    for (const int64_t channels : {33, 130}) {
      SCOPED_TRACE(testing::Message() << text << " of " << channels);
      QuantizedTensor table = random_codes(scheme, 5, channels, 6, false);
      table.group_index = *Tensor::allocate(DType::i32, {channels});
      for (int64_t c = 0; c < channels; ++c)
        table.group_index.mutable_data<int32_t>()[c] = int32_t(c * 7 % scheme.groups(channels));
      if (scheme.kind == QuantScheme::Kind::codebook) {
        table.scheme.codebook = "custom";
        table.codebook = *Tensor::allocate(DType::f32, {16});
        for (int i = 0; i < 16; ++i) table.codebook.mutable_data<float>()[i] = std::sin(float(i)) * 0.7f;
      }
      const Tensor dense = *table.dequantize();
      Padded out(2, channels);
      ops::embedding(indices({4, 1}), table, 1.0f, false, out.view());
      EXPECT_TRUE(out.padding_is_intact());
      for (int64_t c = 0; c < channels; ++c) {
        ASSERT_EQ(value_at(out.view(), 0, c), value_at(dense, 4, c)) << c;
        ASSERT_EQ(value_at(out.view(), 1, c), value_at(dense, 1, c)) << c;
      }
    }
  }
}

// Many more tokens than are sorted at a time, some ids very frequent: whole numbers are exact in any order.
TEST_P(TrainingRowsTest, EmbeddingGradientOfManyTokens) {
  const int64_t tokens = 4500, rows = 50, channels = 70;
  std::vector<int32_t> list;
  for (int64_t t = 0; t < tokens; ++t) list.push_back(int32_t(t % 3 == 0 ? 7 : t * t % rows));
  const Tensor ids = indices(list), dout = integers({tokens, channels}, 7);
  const Tensor before = integers({rows, channels}, 8);
  std::vector<double> want(size_t(rows * channels));
  for (int64_t i = 0; i < rows * channels; ++i) want[size_t(i)] = double(before.data<float>()[i]);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < channels; ++c)
      want[size_t(list[size_t(t)] * channels + c)] += 0.5 * value_at(dout, t, c);
  }
  for (const int64_t padding : {5, 2}) {
    Padded wide(dout, padding);
    Tensor dtable = copy_of(before).on(device());
    ops::embedding_backward(ids.on(device()), wide.view().on(device()), 0.5f, dtable);
    for (int64_t i = 0; i < rows * channels; ++i)
      ASSERT_EQ(double(dtable.data<float>()[i]), want[size_t(i)]) << i / channels << ", " << i % channels;
  }
}

// Rows of heads: ordinary ones, zeros, tiny, huge, and one with a NaN or an infinity.
Tensor cache_rows(int64_t rows, int64_t width) {
  const Tensor x = uniform({rows, width}, 9, -2.0f, 3.0f);
  for (int64_t r = 0; r < rows; ++r) {
    const float factors[] = {1.0f, 0.0f, 1e-9f, 1e6f, 1.0f, -1.0f};
    for (int64_t c = 0; c < width; ++c) element(x, r, c) *= factors[size_t(r % 6)];
    if (r % 6 == 4) element(x, r, 0) = r % 12 == 4 ? std::nanf("") : std::numeric_limits<float>::infinity();
  }
  return x;
}

TEST_P(TrainingRowsTest, CachedCodesAreThoseOfTheDefinition) {
  const int64_t sequences = 2, tokens = 6, kv_heads = 3, capacity = 9, first = 2;
  for (const KvQuant kv : {KvQuant{KvQuant::Kind::int8}, KvQuant{KvQuant::Kind::int4}}) {
    for (const int64_t head_dim : {1, 7, 33, 64, 128, 512}) {
      SCOPED_TRACE(testing::Message() << kv.name() << " " << head_dim);
      const Tensor x = cache_rows(sequences * tokens, kv_heads * head_dim);
      Padded rows(x);
      const int64_t row_bytes = kv.row_bytes(head_dim);
      KvCodes cache;
      cache.codes = zeros(DType::u8, {sequences, kv_heads, capacity, row_bytes}).on(device());
      cache.scales = zeros(DType::f16, {sequences, kv_heads, capacity}).on(device());
      if (kv.has_zeros()) cache.zeros = zeros(DType::u8, {sequences, kv_heads, capacity}).on(device());
      ops::kv_append(rows.view().on(device()), tokens, first, kv, head_dim, cache);
      Tensor rounded = copy_of(x).on(device());
      ops::kv_round(kv, rounded, kv_heads);
      std::vector<uint8_t> codes(size_t(row_bytes), 0);
      for (int64_t s = 0; s < sequences; ++s) {
        for (int64_t h = 0; h < kv_heads; ++h) {
          for (int64_t t = 0; t < capacity; ++t) {
            const int64_t place = (s * kv_heads + h) * capacity + t, row = s * tokens + t - first;
            const bool is_there = t >= first && t < first + tokens;
            std::fill(codes.begin(), codes.end(), uint8_t{0});
            uint16_t scale = 0;
            uint8_t zero = 0;
            const float* vector = x.data<float>() + row * kv_heads * head_dim + h * head_dim;
            if (is_there)
              kv_encode(kv, vector, head_dim, codes.data(), &scale, kv.has_zeros() ? &zero : nullptr);
            ASSERT_EQ(cache.scales.data<uint16_t>()[place], scale) << s << ", " << h << ", " << t;
            if (kv.has_zeros()) {
              ASSERT_EQ(cache.zeros.data<uint8_t>()[place], zero) << s << ", " << h << ", " << t;
            }
            for (int64_t i = 0; i < row_bytes; ++i) {
              ASSERT_EQ(cache.codes.data<uint8_t>()[place * row_bytes + i], codes[size_t(i)])
                  << s << ", " << h << ", " << t << ": byte " << i;
            }
            if (!is_there) continue;
            std::vector<float> decoded(static_cast<size_t>(head_dim));
            kv_decode(kv, codes.data(), scale, zero, head_dim, decoded.data());
            for (int64_t d = 0; d < head_dim; ++d) {
              const double got = value_at(rounded, row, h * head_dim + d);
              if (std::isnan(decoded[size_t(d)])) {
                ASSERT_TRUE(std::isnan(got));
              } else {
                ASSERT_EQ(got, double(decoded[size_t(d)])) << row << ", " << h << ", " << d;
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(TrainingRowsTest, CachedFloatsAreTheRows) {
  const int64_t tokens = 5, kv_heads = 2, capacity = 8, first = 3;
  const bool is_gpu = GetParam().starts_with("cuda");
  for (const DType dtype : {DType::f32, DType::bf16}) {
    if (dtype != DType::f32 && !is_gpu) continue;
    for (const int64_t head_dim : {1, 31, 64, 130}) {
      Padded rows(uniform({2 * tokens, kv_heads * head_dim}, 10));
      const Tensor cache = zeros(dtype, {2, kv_heads, capacity, head_dim}).on(device());
      ops::kv_append(rows.view().on(device()), tokens, first, cache);
      for (int64_t row = 0; row < 2 * tokens; ++row) {
        for (int64_t c = 0; c < kv_heads * head_dim; ++c) {
          const int64_t s = row / tokens, t = first + row % tokens;
          const int64_t place = ((s * kv_heads + c / head_dim) * capacity + t) * head_dim + c % head_dim;
          const auto x = float(value_at(rows.view(), row, c));
          if (dtype == DType::f32) {
            ASSERT_EQ(cache.data<float>()[place], x);
          } else {
            ASSERT_EQ(cache.data<uint16_t>()[place], float_to_bf16(x));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace pare::test
