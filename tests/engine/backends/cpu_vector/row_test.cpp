// Norms, rotary embedding, softmax and embedding tables against plain loops in double, with strides and
// aliasing.
#include <gtest/gtest.h>

#include "engine/backends/cpu/kernels.h"
#include "engine/tensor/float_formats.h"
#include "tests/engine/backends/cpu_vector/support.h"

namespace pare::cpu {
namespace {

constexpr int64_t kRows = 3;
constexpr float kUntouched = -7.0f;
const int64_t kColumns[] = {1, 3, 15, 16, 17, 31, 64, 576, 1'001};

class RowTest : public testing::TestWithParam<Isa> {
 protected:
  static const Kernels& k() { return kernels(GetParam()); }
};

// |got - exact| in units of float epsilon times the magnitude
double relative(float got, double exact, double magnitude) {
  return std::abs(double(got) - exact) / (1.2e-7 * magnitude);
}

TEST_P(RowTest, RmsNorm) {
  for (const int64_t n : kColumns) {
    for (const bool plus_one : {false, true}) {
      const int64_t x_stride = n + 2;
      const int64_t out_stride = n + 1;
      const auto x = random_floats(kRows * x_stride, -2.0f, 2.0f, 1);
      const auto gain = random_floats(n, 0.5f, 1.5f, 2);
      std::vector<float> out(size_t(kRows * out_stride), kUntouched);
      k().rms_norm({.x = x.data(),
                    .gain = gain.data(),
                    .out = out.data(),
                    .tokens = kRows,
                    .channels = n,
                    .x_stride = x_stride,
                    .out_stride = out_stride,
                    .eps = 1e-5f,
                    .gain_plus_one = plus_one},
                   0, kRows);
      for (int64_t t = 0; t < kRows; ++t) {
        const float* row = &x[size_t(t * x_stride)];
        double squares = 0.0;
        for (int64_t c = 0; c < n; ++c) squares += double(row[c]) * double(row[c]);
        const double inverse = 1.0 / std::sqrt(squares / double(n) + double(1e-5f));
        for (int64_t c = 0; c < n; ++c) {
          const double exact = double(row[c]) * inverse * (double(gain[size_t(c)]) + (plus_one ? 1.0 : 0.0));
          ASSERT_LE(relative(out[size_t(t * out_stride + c)], exact, std::abs(exact)), 3.0)
              << n << " at " << c;
        }
        ASSERT_EQ(out[size_t(t * out_stride + n)], kUntouched);
      }
    }
  }
}

// A mean a thousand times the deviation: a sum of squares in float would lose everything.
TEST_P(RowTest, LayerNormWithALargeMean) {
  for (const int64_t n : kColumns) {
    for (const bool has_bias : {false, true}) {
      auto x = random_floats(kRows * n, 999.0f, 1'001.0f, 3);
      const auto gain = random_floats(n, 0.5f, 1.5f, 4);
      const auto bias = random_floats(n, -1.0f, 1.0f, 5);
      std::vector<float> out = x;  // in place
      k().layer_norm({.x = out.data(),
                      .gain = gain.data(),
                      .bias = has_bias ? bias.data() : nullptr,
                      .out = out.data(),
                      .tokens = kRows,
                      .channels = n,
                      .x_stride = n,
                      .out_stride = n,
                      .eps = 1e-5f},
                     0, kRows);
      for (int64_t t = 0; t < kRows; ++t) {
        const float* row = &x[size_t(t * n)];
        double mean = 0.0;
        double variance = 0.0;
        for (int64_t c = 0; c < n; ++c) mean += double(row[c]) / double(n);
        for (int64_t c = 0; c < n; ++c)
          variance += (double(row[c]) - mean) * (double(row[c]) - mean) / double(n);
        for (int64_t c = 0; c < n; ++c) {
          const double normal =
              (double(row[c]) - mean) / std::sqrt(variance + double(1e-5f)) * double(gain[size_t(c)]);
          const double exact = normal + (has_bias ? double(bias[size_t(c)]) : 0.0);
          ASSERT_LE(relative(out[size_t(t * n + c)], exact, std::abs(normal) + 1.0), 4.0) << n << " at " << c;
        }
      }
    }
  }
}

TEST_P(RowTest, Rotary) {
  for (const int64_t rotary_dim : {2, 6, 16, 30, 32, 62, 64, 128}) {
    const int64_t heads = 3;
    const int64_t head_dim = rotary_dim + 4;
    const int64_t stride = heads * head_dim + 1;
    const int64_t half = rotary_dim / 2;
    const std::vector<int32_t> positions{4, 0, 2};
    const auto x = random_floats(kRows * stride, -2.0f, 2.0f, 6);
    const auto cosines = random_floats(5 * half, -1.0f, 1.0f, 7);
    const auto sines = random_floats(5 * half, -1.0f, 1.0f, 8);
    std::vector<float> out = x;
    k().rotary({.x = out.data(),
                .positions = positions.data(),
                .cosines = cosines.data(),
                .sines = sines.data(),
                .tokens = kRows,
                .heads = heads,
                .head_dim = head_dim,
                .rotary_dim = rotary_dim,
                .stride = stride},
               0, kRows);
    for (int64_t t = 0; t < kRows; ++t) {
      for (int64_t c = 0; c < stride; ++c) {
        const size_t at = size_t(t * stride + c);
        const int64_t d = c % head_dim;
        if (c >= heads * head_dim || d >= rotary_dim) {
          ASSERT_EQ(out[at], x[at]);
          continue;
        }
        const size_t angle = size_t(positions[size_t(t)] * half + d % half);
        const double other = double(x[d < half ? at + size_t(half) : at - size_t(half)]);
        const double exact =
            double(x[at]) * double(cosines[angle]) + (d < half ? -other : other) * double(sines[angle]);
        ASSERT_LE(relative(out[at], exact, 4.0), 1.0) << rotary_dim << " at " << c;
      }
    }
  }
}

TEST_P(RowTest, Softmax) {
  for (const int64_t n : kColumns) {
    const auto x = random_floats(kRows * n, -30.0f, 30.0f, 9);
    std::vector<float> out = x;
    k().softmax(
        {.x = out.data(), .out = out.data(), .rows = kRows, .columns = n, .x_stride = n, .out_stride = n}, 0,
        kRows);
    for (int64_t r = 0; r < kRows; ++r) {
      double sum = 0.0;
      for (int64_t c = 0; c < n; ++c) sum += std::exp(double(x[size_t(r * n + c)]));
      for (int64_t c = 0; c < n; ++c) {
        const double exact = std::exp(double(x[size_t(r * n + c)])) / sum;
        // x - max is rounded: half an ulp of up to 60
        ASSERT_LE(relative(out[size_t(r * n + c)], exact, exact), 40.0) << n << " at " << c;
      }
    }
  }
}

TEST_P(RowTest, EmbeddingOfEveryType) {
  for (const int64_t n : {1, 7, 16, 17, 64, 130}) {
    const int64_t table_rows = 5;
    const std::vector<int32_t> ids{4, 0, 4};
    const auto wide = random_floats(table_rows * n, -3.0f, 3.0f, 10);
    std::vector<uint16_t> narrow(wide.size());
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (size_t i = 0; i < wide.size(); ++i)
        narrow[i] = dtype == DType::bf16 ? float_to_bf16(wide[i]) : float_to_f16(wide[i]);
      const void* table = dtype == DType::f32 ? static_cast<const void*>(wide.data()) : narrow.data();
      for (const bool accumulate : {false, true}) {
        std::vector<float> out(size_t(kRows * (n + 1)), 0.75f);
        k().embedding({.ids = ids.data(),
                       .table = table,
                       .table_dtype = dtype,
                       .out = out.data(),
                       .tokens = kRows,
                       .rows = table_rows,
                       .channels = n,
                       .out_stride = n + 1,
                       .scale = 2.0f,
                       .accumulate = accumulate},
                      0, kRows);
        for (int64_t t = 0; t < kRows; ++t) {
          for (int64_t c = 0; c < n; ++c) {
            const size_t at = size_t(ids[size_t(t)] * n + c);
            const float value = dtype == DType::f32    ? wide[at]
                                : dtype == DType::bf16 ? bf16_to_float(narrow[at])
                                                       : f16_to_float(narrow[at]);
            ASSERT_EQ(out[size_t(t * (n + 1) + c)], 2.0f * value + (accumulate ? 0.75f : 0.0f));
          }
          ASSERT_EQ(out[size_t(t * (n + 1) + n)], 0.75f);
        }
      }
    }
  }
}

// Every f16 number, subnormals, infinities and NaN included, widens exactly.
TEST_P(RowTest, EveryHalfNumber) {
  std::vector<uint16_t> table(65'536);
  for (size_t i = 0; i < table.size(); ++i) table[i] = uint16_t(i);
  std::vector<float> out(table.size());
  const int32_t id = 0;
  k().embedding({.ids = &id,
                 .table = table.data(),
                 .table_dtype = DType::f16,
                 .out = out.data(),
                 .tokens = 1,
                 .rows = 1,
                 .channels = 65'536,
                 .out_stride = 65'536,
                 .scale = 1.0f,
                 .accumulate = false},
                0, 1);
  for (size_t i = 0; i < table.size(); ++i) {
    const float exact = f16_to_float(uint16_t(i));
    ASSERT_TRUE(std::isnan(exact) ? std::isnan(out[i]) : out[i] == exact) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, RowTest, testing::ValuesIn(host_levels()),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

}  // namespace
}  // namespace pare::cpu
