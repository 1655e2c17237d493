// Workspace for weights that are not loaded yet: enough for whatever form they get.
#include <gtest/gtest.h>

#include <cstdlib>

#include "engine/backends/cuda/cuda_backend.h"
#include "engine/backends/cuda/packed_table.h"
#include "engine/tensor/sparse_tensor.h"
#include "tests/engine/backends/cuda_packed/packed_support.h"

namespace pare::test {
namespace {

constexpr int64_t kRows[] = {1, 2, 7, 16, 17, 40, 64, 130, 192, 193, 600};

// What a walk over blocks knows of a weight before it loads it (Weight::planned).
PackedMatrix planned(const QuantScheme& scheme, int64_t out, int64_t in) {
  PackedMatrix weight;
  weight.scheme = scheme;
  weight.out = out;
  weight.in = in;
  return weight;
}

void expect_room(const Backend& backend, const PackedMatrix& plan, const PackedMatrix& packed,
                 const std::string& what) {
  for (const int64_t m : kRows)
    EXPECT_GE(backend.packed_matmul_workspace_bytes(plan, m),
              backend.packed_matmul_workspace_bytes(packed, m))
        << what << " [" << packed.out << ", " << packed.in << "] m " << m;
}

TEST(CudaPlannedWeights, HaveRoomForEveryLayout) {
  for (const cuda::MathMode math : {cuda::MathMode::f32, cuda::MathMode::bf16}) {
    const auto backend = *make_cuda_backend(0, {.math = math});
    for (const char* scheme : kPackedSchemes) {
      for (const auto& [out, in] : {std::pair<int64_t, int64_t>{16, 64}, {130, 200}, {48, 5000}}) {
        auto weight = std::make_shared<QuantizedTensor>(random_packed(scheme, out, in, 7));
        expect_room(*backend, planned(weight->scheme, out, in), *backend->prepack(weight), scheme);
        if (weight->scheme.granularity != QuantScheme::Granularity::group) continue;
        // Groups of every size: some hold one column, the first whatever is left.
        weight->group_index = *Tensor::allocate(DType::i32, {in});
        const int64_t groups = weight->scheme.groups(in);
        for (int64_t i = 0; i < in; ++i)
          weight->group_index.mutable_data<int32_t>()[i] = i % 7 == 0 && i / 7 < groups ? int32_t(i / 7) : 0;
        expect_room(*backend, planned(weight->scheme, out, in), *backend->prepack(weight),
                    std::string(scheme) + " by index");
      }
    }
  }
}

TEST(CudaKernelChoice, AVariableForcesIt) {
  const cuda::PackedProblem one{.m = 1, .n = 64, .k = 64, .bits = 4, .math = cuda::MathMode::bf16};
  EXPECT_EQ(cuda::choose_packed_kernel(one).name, "packed_vector");
  ASSERT_EQ(setenv("PARE_CUDA_KERNEL", "packed_dense", 1), 0);
  EXPECT_TRUE(make_cuda_backend(0, {}).has_value());
  EXPECT_EQ(cuda::choose_packed_kernel(one).name, "packed_dense");
  ASSERT_EQ(setenv("PARE_CUDA_KERNEL", "packed_magic", 1), 0);
  const auto refused = make_cuda_backend(0, {});
  ASSERT_EQ(unsetenv("PARE_CUDA_KERNEL"), 0);
  cuda::force_packed_kernel("");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().exit, Exit::usage);
  EXPECT_NE(refused.error().limit.find("packed_vector"), std::string::npos);
}

TEST(CudaPlannedWeights, HaveRoomForSparseForms) {
  const auto backend = *make_cuda_backend(0, {});
  constexpr int64_t kOut = 48, kIn = 256;
  Mask mask(*Tensor::allocate(DType::u8, {kOut, kIn / 8}), kOut, kIn);
  for (int64_t row = 0; row < kOut; ++row)
    for (int64_t column = 0; column < kIn; ++column) mask.set(row, column, column % 4 < 2);
  for (const char* pattern : {"2:4", "unstructured"}) {
    const SparsityPattern kind = *SparsityPattern::parse(pattern);
    Tensor dense = *Tensor::allocate(DType::bf16, {kOut, kIn});
    for (int64_t i = 0; i < dense.numel(); ++i) dense.mutable_data<uint16_t>()[i] = 0x3f80;
    const auto weight = std::make_shared<SparseTensor>(*SparseTensor::from_dense(dense, mask, kind));
    expect_room(*backend, planned(QuantScheme{}, kOut, kIn), *backend->prepack_sparse(weight), pattern);
  }
}

}  // namespace
}  // namespace pare::test
