// prepack, unpack and packed_matmul on every backend and scheme.
#include <cmath>

#include "engine/core/parallel.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

using PackedMatmulTest = BackendTest;
PARE_INSTANTIATE_BACKENDS(PackedMatmulTest);

constexpr const char* kSchemes[] = {"int8-ch",        "int8-tensor",    "int8-g64",        "int8-g64-asym",
                                    "int8-ch-full",   "int4-g32",       "int4-g64",        "int4-g128",
                                    "int4-ch",        "int4-g32-asym",  "int4-g64-asym",   "int4-g128-asym",
                                    "int4-g32-asymf", "int4-g64-asymf", "int4-g128-asymf", "int4-g64-narrow",
                                    "int2-g64",       "int3-g64-asym",  "int5-g32",        "int6-ch",
                                    "int7-g64",       "nf4-g64",        "fp8-e4m3-ch",     "fp8-e4m3-g64",
                                    "fp8-e5m2-ch",    "int4-g24",       "int4-g64-sf32",   "int8-ch-sbf16"};

PackedMatrix pack(const QuantizedTensor& weight) {
  Result<PackedMatrix> packed =
      backend_for(Device::check()).prepack(std::make_shared<QuantizedTensor>(weight));
  PARE_ASSERT(packed.has_value(), "{}", format_error(packed.error()));
  return *packed;
}

void product(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, bool accumulate, Tensor& out) {
  Workspace workspace =
      *Workspace::reserve(ops::matmul_workspace_bytes(Device::check(), weight, x.size(0)), Device::check());
  ops::matmul(x, weight, bias, accumulate, out, workspace);
}

// Packing and unpacking gives the same codes; the check backend asserts it in prepack().
TEST_P(PackedMatmulTest, UnpackIsTheInverseOfPrepack) {
  for (const char* text : kSchemes) {
    for (const int64_t n : {1, 7, 16, 17, 33, 64, 65, 130}) {
      for (const int64_t k : {1, 7, 8, 31, 32, 33, 63, 64, 65, 128, 129, 320}) {
        SCOPED_TRACE(testing::Message() << text << " n " << n << " k " << k);
        pack(random_codes(*QuantScheme::parse(text), n, k, 1, false));
      }
    }
  }
}

TEST_P(PackedMatmulTest, AgreesOnAllSchemesAndSizes) {
  for (const char* text : kSchemes) {
    for (const int64_t n : {1, 7, 15, 16, 17, 33, 64, 65}) {
      for (const int64_t k : {1, 7, 31, 33, 64, 65, 127, 128, 129, 257}) {
        const PackedMatrix weight = pack(random_codes(*QuantScheme::parse(text), n, k, 2, false));
        for (const int64_t m : {1, 2, 7, 17}) {
          SCOPED_TRACE(testing::Message() << text << " m " << m << " n " << n << " k " << k);
          Padded x(uniform({m, k}, 3)), out(m, n, 3);
          product(x.view(), weight, Tensor(), false, out.view());
          EXPECT_TRUE(out.padding_is_intact());
        }
      }
    }
  }
}

// Scales 1 and integer activations: every sum is exact, so not a bit may differ from integer arithmetic.
TEST_P(PackedMatmulTest, ExactOnSmallIntegers) {
  for (const char* text : kSchemes) {
    const QuantScheme scheme = *QuantScheme::parse(text);
    if (scheme.kind != QuantScheme::Kind::integer) continue;
    for (const auto& [n, k] : {std::pair{1, 1}, {7, 33}, {17, 129}, {33, 64}, {65, 200}, {130, 320}}) {
      const QuantizedTensor weight = random_codes(scheme, n, k, 4, true);
      const Tensor dense = *weight.dequantize();
      const PackedMatrix packed = pack(weight);
      for (const int64_t m : {1, 2, 3, 8, 17, 33}) {
        SCOPED_TRACE(testing::Message() << text << " m " << m << " n " << n << " k " << k);
        const Tensor x = integers({m, k}, 5), bias = integers({n}, 6, -9, 9),
                     before = integers({m, n}, 7, -9, 9);
        Padded out(before);
        product(x, packed, bias, true, out.view());
        EXPECT_TRUE(out.padding_is_intact());
        for (int64_t row = 0; row < m; ++row) {
          for (int64_t column = 0; column < n; ++column) {
            int64_t want = int64_t(bias.data<float>()[column]) + int64_t(value_at(before, row, column));
            for (int64_t i = 0; i < k; ++i)
              want += int64_t(value_at(x, row, i)) * int64_t(value_at(dense, column, i));
            ASSERT_EQ(value_at(out.view(), row, column), double(want)) << row << "," << column;
          }
        }
      }
    }
  }
}

TEST_P(PackedMatmulTest, AgreesOnLongRows) {
  for (const char* text :
       {"int8-ch", "int8-g64", "int4-g32", "int4-g128", "int4-g64-asym", "int4-g128-asymf", "nf4-g64"}) {
    for (const auto& [m, n, k] : {std::tuple{1, 300, 2048}, {3, 129, 4224}, {40, 70, 1100}}) {
      SCOPED_TRACE(testing::Message() << text << " m " << m << " n " << n << " k " << k);
      const PackedMatrix weight = pack(random_codes(*QuantScheme::parse(text), n, k, 8, false));
      Tensor out = uniform({m, n}, 9);
      product(uniform({m, k}, 10), weight, uniform({n}, 11), true, out);
    }
  }
}

// Columns of a group anywhere in the row, as GPTQ with act-order leaves them.
TEST_P(PackedMatmulTest, GroupIndex) {
  for (const char* text : {"int4-g32", "int4-g32-asym", "int8-g32"}) {
    QuantizedTensor weight = random_codes(*QuantScheme::parse(text), 18, 96, 12, false);
    weight.group_index = *Tensor::allocate(DType::i32, {96});
    for (int32_t i = 0; i < 96; ++i) weight.group_index.mutable_data<int32_t>()[i] = i * 7 % 3;
    const PackedMatrix packed = pack(weight);
    for (const int64_t m : {1, 5}) {
      Tensor out = zeros(DType::f32, {m, 18});
      product(uniform({m, 96}, 13), packed, Tensor(), false, out);
    }
  }
}

TEST_P(PackedMatmulTest, CustomCodebook) {
  for (const char* text : {"codebook2-ch", "codebook3-g16", "codebook4-g64", "codebook4-ch", "codebook5-g32",
                           "codebook8-g64", "codebook6-tensor"}) {
    QuantizedTensor weight = random_codes(*QuantScheme::parse(text), 19, 136, 14, false);
    const int count = weight.scheme.code_count();
    for (int i = 0; i < count; ++i)
      weight.codebook.mutable_data<float>()[i] = float(i * i) / float(count * count) - 0.4f;
    const PackedMatrix packed = pack(weight);
    for (const int64_t m : {1, 5}) {
      Tensor out = zeros(DType::f32, {m, 19});
      product(uniform({m, 136}, 15), packed, Tensor(), false, out);
    }
  }
}

TEST_P(PackedMatmulTest, ResultsDoNotDependOnThreads) {
  for (const char* text : {"int8-ch", "int4-g64", "int4-g128-asym"}) {
    const PackedMatrix weight = pack(random_codes(*QuantScheme::parse(text), 290, 640, 16, false));
    for (const int64_t m : {1, 21}) {
      std::vector<Tensor> results;
      for (const int threads : {1, 2, 5}) {
        set_thread_count(threads);
        results.push_back(zeros(DType::f32, {m, 290}));
        product(uniform({m, 640}, 17), weight, Tensor(), false, results.back());
      }
      set_thread_count(0);
      EXPECT_TRUE(same_bits(results[1], results[0])) << text << " m " << m;
      EXPECT_TRUE(same_bits(results[2], results[0])) << text << " m " << m;
    }
  }
}

TEST_P(PackedMatmulTest, EmptyRowsAreNothingToDo) {
  const PackedMatrix weight = pack(random_codes(*QuantScheme::parse("int8-ch"), 5, 7, 18, false));
  Tensor out = zeros(DType::f32, {0, 5});
  product(zeros(DType::f32, {0, 7}), weight, Tensor(), false, out);
}

}  // namespace
}  // namespace pare::test
