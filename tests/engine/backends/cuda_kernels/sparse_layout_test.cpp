// Sparse matrices in the order of the kernels: unpacking gives back what was packed; the choice follows from
// the bytes. (Products: sparse_matmul_test.cpp, on every backend.)
#include "engine/backends/cuda/sparse_layout.h"

#include <cstring>

#include "tests/engine/backends/cuda_kernels/emulated.h"

namespace pare::test {
namespace {

Mask every_other(const SparsityPattern& pattern, int64_t out, int64_t in) {
  Mask mask = *Mask::all_kept(out, in);
  const Random random(5, RandomPurpose::test_data);
  for (int64_t row = 0; row < out; ++row) {
    for (int64_t left = 0; left < in; left += 4) {
      const int64_t width = std::min<int64_t>(4, in - left);
      const int64_t removed = pattern.kind == SparsityPattern::Kind::n_of_m
                                  ? (pattern.m - pattern.n) * width / pattern.m
                                  : int64_t(random.below(uint64_t(width + 1), uint64_t(row * in + left), 1));
      const auto first = int64_t(random.below(uint64_t(width), uint64_t(row * in + left)));
      for (int64_t i = 0; i < removed; ++i) mask.set(row, left + (first + i) % width, false);
    }
  }
  return mask;
}

TEST(CudaSparseLayoutTest, UnpackingGivesBackWhatWasPacked) {
  for (const char* text : {"2:4", "unstructured"}) {
    const SparsityPattern pattern = *SparsityPattern::parse(text);
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (const auto& [out, in] :
           {std::pair<int64_t, int64_t>{1, 1}, {7, 33}, {17, 64}, {16, 127}, {40, 200}}) {
        Tensor dense = *Tensor::allocate(dtype, {out, in});
        auto* bytes = reinterpret_cast<uint8_t*>(dense.mutable_raw());
        for (size_t i = 0; i < dense.size_bytes(); ++i) bytes[i] = uint8_t((i * 37 + 11) % 0x70);
        const SparseTensor weight = *SparseTensor::from_dense(dense, every_other(pattern, out, in), pattern);
        const PackedMatrix packed = *cuda::pack_sparse(weight);
        EXPECT_EQ(packed.layout.name.starts_with("cuda-2of4"), pattern.n == 2 && dtype != DType::f32);
        const SparseTensor back = *cuda::unpack_sparse_parts(packed);
        EXPECT_TRUE(same_bytes(back.values, weight.values)) << text << out << "x" << in;
        EXPECT_TRUE(same_bytes(back.indices, weight.indices));
        EXPECT_TRUE(same_bytes(back.mask, weight.mask));
        EXPECT_TRUE(same_bytes(back.row_pointers, weight.row_pointers));
      }
    }
  }
}

// The word of places of rows 0 and 8, columns 0 to 15, by hand.
TEST(CudaSparseLayoutTest, PlacesStandWhereTheInstructionWantsThem) {
  const SparsityPattern pattern = *SparsityPattern::parse("2:4");
  Mask mask = *Mask::all_kept(16, 64);
  for (int64_t row = 0; row < 16; ++row) {
    for (int64_t column = 0; column < 64; ++column) {
      const bool is_low = column % 4 < 2;  // rows 0 to 7 keep 0 and 1, the others 1 and 3
      mask.set(row, column, row < 8 ? is_low : column % 2 == 1);
    }
  }
  const Tensor dense = *Tensor::allocate(DType::bf16, {16, 64});
  for (int64_t i = 0; i < 16 * 64; ++i) dense.mutable_data<uint16_t>()[i] = uint16_t(i);
  const PackedMatrix packed = *cuda::pack_sparse(*SparseTensor::from_dense(dense, mask, pattern));
  ASSERT_EQ(packed.codes.numel(), 1024 + 128);
  for (int i = 0; i < 32; ++i) {
    uint32_t word;
    std::memcpy(&word, packed.codes.data<uint8_t>() + 1024 + 4 * i, 4);
    EXPECT_EQ(word, 0xdddd4444u) << i;  // 1 and 3: 0b1101, 0 and 1: 0b0100
  }
  // lane 5 (row 1, columns 4 to 7 and 20 to 23), first half: a0 a1 a2 a3
  const uint16_t want[8] = {64 + 4,  64 + 5,  9 * 64 + 5,  9 * 64 + 7,
                            64 + 20, 64 + 21, 9 * 64 + 21, 9 * 64 + 23};
  EXPECT_EQ(std::memcmp(packed.codes.data<uint8_t>() + 5 * 16, want, 16), 0);
}

TEST(CudaSparseChoiceTest, FollowsFromBytes) {
  const auto choose = [](const char* pattern, double density, DType dtype, const char* scheme) {
    SparseSummary summary{.pattern = *SparsityPattern::parse(pattern),
                          .out = 4096,
                          .in = 4096,
                          .density = density,
                          .value_dtype = dtype};
    if (scheme != nullptr) summary.scheme = *QuantScheme::parse(scheme), summary.value_dtype = DType::u8;
    return cuda::choose_sparse_form(summary).is_sparse;
  };
  EXPECT_TRUE(choose("2:4", 0.5, DType::bf16, nullptr));
  EXPECT_TRUE(choose("2:4", 0.5, DType::u8, "int4-g128"));
  EXPECT_TRUE(choose("2:4", 0.5, DType::u8, "int8-ch"));
  EXPECT_TRUE(choose("unstructured", 0.3, DType::bf16, nullptr));
  EXPECT_FALSE(choose("unstructured", 0.7, DType::bf16, nullptr));
  EXPECT_FALSE(choose("unstructured", 0.5, DType::u8, "int4-g128"));
  EXPECT_FALSE(choose("2:4", 0.5, DType::u8, "nf4-g64"));
}

}  // namespace
}  // namespace pare::test
