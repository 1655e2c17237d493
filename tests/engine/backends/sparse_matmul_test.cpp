// prepack_sparse, unpack_sparse and packed_matmul of sparse matrices on every backend.
#include "engine/core/parallel.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

using SparseMatmulTest = BackendTest;
PARE_INSTANTIATE_BACKENDS(SparseMatmulTest);

constexpr const char* kPatterns[] = {"unstructured", "2:4", "1:4", "3:4", "2:8", "block-4x4", "block-1x8"};

// A row keeps what `seed` draws, within the pattern.
Mask random_mask(const SparsityPattern& pattern, int64_t out, int64_t in, uint64_t seed) {
  const Random random(seed, RandomPurpose::test_data);
  Mask mask = *Mask::all_kept(out, in);
  const bool in_blocks = pattern.kind == SparsityPattern::Kind::block;
  for (int64_t row = 0; row < out; ++row) {
    for (int64_t column = 0; column < in; ++column) {
      if (pattern.kind != SparsityPattern::Kind::n_of_m) {
        const int64_t top = in_blocks ? row / pattern.block_rows : row;
        const int64_t left = in_blocks ? column / pattern.block_columns : column;
        mask.set(row, column, random.uniform(uint64_t(top * in + left)) < 0.5f);
        continue;
      }
      // Of a group of width w, floor((m - n) w / m) go: those that follow a drawn place, around.
      const int64_t left = column / pattern.m * pattern.m, width = std::min<int64_t>(pattern.m, in - left);
      const int64_t removed = (pattern.m - pattern.n) * width / pattern.m;
      const auto first = int64_t(random.below(uint64_t(width), uint64_t(row * in + left)));
      mask.set(row, column, (column - left - first + width) % width >= removed);
    }
  }
  return mask;
}

PackedMatrix pack(const SparseTensor& weight) {
  Result<PackedMatrix> packed =
      backend_for(Device::check()).prepack_sparse(std::make_shared<SparseTensor>(weight));
  PARE_ASSERT(packed.has_value(), "{}", format_error(packed.error()));
  return *packed;
}

void product(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, bool accumulate, Tensor& out) {
  Workspace workspace =
      *Workspace::reserve(ops::matmul_workspace_bytes(Device::check(), weight, x.size(0)), Device::check());
  ops::matmul(x, weight, bias, accumulate, out, workspace);
}

// Packing and unpacking gives the same tensor (the check backend asserts it), and products agree with the
// reference, that is with the product of to_dense().
TEST_P(SparseMatmulTest, AgreesOnValues) {
  for (const char* text : kPatterns) {
    const SparsityPattern pattern = *SparsityPattern::parse(text);
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (const auto& [n, k] : {std::pair{1, 1}, {7, 33}, {16, 64}, {33, 127}, {65, 258}}) {
        const SparseTensor weight = *SparseTensor::from_dense(uniform({n, k}, 2, -1, 1, dtype),
                                                              random_mask(pattern, n, k, 3), pattern);
        const PackedMatrix packed = pack(weight);
        for (const int64_t m : {1, 2, 7, 17}) {
          SCOPED_TRACE(testing::Message() << text << " m " << m << " n " << n << " k " << k);
          Padded x(uniform({m, k}, 4)), out(uniform({m, n}, 5));
          product(x.view(), packed, uniform({n}, 6), m == 2, out.view());
          EXPECT_TRUE(out.padding_is_intact());
        }
      }
    }
  }
}

TEST_P(SparseMatmulTest, AgreesOnCodes) {
  for (const char* text : kPatterns) {
    const SparsityPattern pattern = *SparsityPattern::parse(text);
    for (const char* scheme :
         {"int8-ch", "int4-g64", "int4-g32-asym", "int8-g24-asym", "int3-g64", "int4-tensor"}) {
      for (const auto& [n, k] : {std::pair{1, 1}, {17, 65}, {66, 250}}) {
        const SparseTensor weight =
            *SparseTensor::from_quantized(random_codes(*QuantScheme::parse(scheme), n, k, 7, false),
                                          random_mask(pattern, n, k, 8), pattern);
        const PackedMatrix packed = pack(weight);
        for (const int64_t m : {1, 3, 17}) {
          SCOPED_TRACE(testing::Message() << text << " " << scheme << " m " << m << " n " << n << " k " << k);
          Tensor out = zeros(DType::f32, {m, n});
          product(uniform({m, k}, 9), packed, Tensor(), false, out);
        }
      }
    }
  }
}

TEST_P(SparseMatmulTest, CodesWithoutAKernelAreRefused) {
  if (GetParam() == "reference") GTEST_SKIP() << "multiplies every form";
  const SparsityPattern pattern = *SparsityPattern::parse("2:4");
  const auto weight = std::make_shared<SparseTensor>(
      *SparseTensor::from_quantized(random_codes(*QuantScheme::parse("int4-g64-asymf"), 8, 64, 10, false),
                                    random_mask(pattern, 8, 64, 11), pattern));
  EXPECT_FALSE(tested().choose_sparse(SparseSummary::of(*weight)).is_sparse);
  const Result<PackedMatrix> packed = tested().prepack_sparse(weight);
  ASSERT_FALSE(packed.has_value());
  EXPECT_EQ(packed.error().exit, Exit::unsupported);
}

}  // namespace
}  // namespace pare::test
