#include "engine/core/parallel.h"
#include "sparse_support.h"

namespace pare::cpu::test {
namespace {

void expect_same(const Tensor& a, const Tensor& b, const std::string& what) {
  ASSERT_EQ(a.defined(), b.defined()) << what;
  if (!a.defined()) return;
  ASSERT_EQ(a.dtype(), b.dtype()) << what;
  ASSERT_TRUE(a.shape() == b.shape()) << what << ": " << a.shape().text() << " and " << b.shape().text();
  EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.size_bytes()), 0) << what;
}

void expect_same(const SparseTensor& a, const SparseTensor& b, const std::string& what) {
  EXPECT_EQ(a.pattern, b.pattern) << what;
  EXPECT_EQ(a.scheme, b.scheme) << what;
  expect_same(a.mask, b.mask, what + " mask");
  expect_same(a.indices, b.indices, what + " indices");
  expect_same(a.row_pointers, b.row_pointers, what + " row pointers");
  expect_same(a.values, b.values, what + " values");
  expect_same(a.codes, b.codes, what + " codes");
  expect_same(a.scales, b.scales, what + " scales");
  expect_same(a.zero_points, b.zero_points, what + " zero points");
}

TEST(SparseLayout, UnpackIsTheInverseOfPack) {
  for (const auto& [isa, kernels] : kernels_of_this_host()) {
    for (const char* pattern : kPatterns) {
      for (const auto& [out, in] :
           {std::pair<int64_t, int64_t>{1, 1}, {3, 5}, {16, 64}, {17, 130}, {33, 67}, {70, 200}}) {
        for (const SparseTensor& weight : all_forms(pattern, out, in, 0.5, false, 5)) {
          const std::string what = std::string(kernels->name) + " " + name_of(weight);
          const auto packed = sparse_prepack(*kernels, weight);
          ASSERT_TRUE(packed.has_value()) << what;
          const auto back = sparse_unpack(*packed);
          ASSERT_TRUE(back.has_value()) << what;
          expect_same(*back, weight, what + " as " + packed->layout.name);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(SparseLayout, PackingGivesTheSameBytesForEveryThreadCount) {
  for (const char* pattern : {"2:4", "unstructured"}) {
    const SparseTensor weight =
        random_sparse_codes(pattern_of(pattern), scheme_of("int4-g64-asym"), 300, 200, 0.4, false, 6);
    const SparseKernels& kernels = *sparse_kernels(host_isa()).front();
    set_thread_count(1);
    const auto one = sparse_prepack(kernels, weight);
    set_thread_count(3);
    const auto three = sparse_prepack(kernels, weight);
    set_thread_count(0);
    ASSERT_TRUE(one.has_value() && three.has_value());
    expect_same(one->codes, three->codes, "codes");
    expect_same(one->starts, three->starts, "starts");
    expect_same(one->scales, three->scales, "scales");
    expect_same(one->offsets, three->offsets, "offsets");
  }
}

TEST(SparseLayout, NamesItself) {
  const auto name = [](const SparseKernels& kernels, const SparseTensor& weight) {
    return sparse_prepack(kernels, weight).value().layout.name;
  };
  const SparseTensor bits = random_values(pattern_of("unstructured"), DType::bf16, 40, 96, 0.5, false, 7);
  const SparseTensor fours = random_values(pattern_of("2:4"), DType::bf16, 40, 96, 0.5, false, 7);
  const SparseTensor codes =
      random_sparse_codes(pattern_of("1:4"), scheme_of("int4-g32"), 40, 96, 0.5, false, 7);
  EXPECT_EQ(name(sparse_generic::kKernels, bits), "cpu-masked-bf16-rows16");
  EXPECT_EQ(name(sparse_avx2::kKernels, fours), "cpu-2of4-bf16-rows8");
  EXPECT_EQ(name(sparse_avx512::kKernels, codes), "cpu-1of4-nibble-rows16");
  EXPECT_EQ(name(sparse_avx512_vbmi2::kKernels, bits), "cpu-masked-bf16-rows32x2");
}

// What a step or a block adds to the kept weights: positions, and where blocks begin.
TEST(SparseLayout, TakesTheBytesItShould) {
  const int64_t out = 512, in = 1024;
  const auto bits_per_weight = [&](const SparseTensor& weight) {
    return 8.0 * double(sparse_prepack(sparse_avx512::kKernels, weight)->size_bytes()) / double(out * in);
  };
  EXPECT_NEAR(bits_per_weight(random_values(pattern_of("2:4"), DType::bf16, out, in, 0.5, false, 8)), 9.0,
              0.01);
  EXPECT_NEAR(bits_per_weight(random_values(pattern_of("unstructured"), DType::bf16, out, in, 0.5, false, 8)),
              9.0, 0.1);
  EXPECT_NEAR(
      bits_per_weight(random_sparse_codes(pattern_of("2:4"), scheme_of("int4-g64"), out, in, 0.5, false, 8)),
      3.25, 0.01);
}

TEST(SparseLayout, KernelsRefuseTheLayoutOfAnother) {
  const SparseTensor weight = random_values(pattern_of("2:4"), DType::bf16, 16, 64, 0.5, false, 9);
  const PackedMatrix packed = sparse_prepack(sparse_avx512::kKernels, weight).value();
  EXPECT_THROW((void)sparse_matrix(sparse_generic::kKernels, packed), InternalError);
  EXPECT_THROW((void)kernels_of(Isa::generic, packed), InternalError);
}

}  // namespace
}  // namespace pare::cpu::test
