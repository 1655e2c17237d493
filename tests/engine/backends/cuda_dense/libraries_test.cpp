// What happens when a library refuses, or when there is no memory for it: an error that names the operation,
// and nothing that stays broken.
#include "engine/backends/cuda/libraries.h"

#include "tests/engine/backends/cuda_dense/support.h"

namespace pare::test {
namespace {

struct Product {
  std::vector<float> x = integers(16 * 8, 1), weight = integers(4 * 8, 2), out = std::vector<float>(16 * 4);
  std::vector<uint16_t> workspace = std::vector<uint16_t>(1024);
  void run(Backend& backend) {
    backend.matmul({.x = x.data(),
                    .weight = weight.data(),
                    .weight_dtype = DType::f32,
                    .bias = nullptr,
                    .out = out.data(),
                    .m = 16,
                    .n = 4,
                    .k = 8,
                    .x_stride = 8,
                    .out_stride = 4,
                    .accumulate = false,
                    .workspace = workspace.data()});
  }
  bool is_right() const {
    for (size_t i = 0; i < 16; ++i) {
      for (size_t j = 0; j < 4; ++j) {
        float want = 0.0f;
        for (size_t l = 0; l < 8; ++l) want += x[i * 8 + l] * weight[j * 8 + l];
        if (out[i * 4 + j] != want) return false;
      }
    }
    return true;
  }
};

TEST(CudaLibraries, ARefusedProductIsAnErrorWithItsName) {
  for (const cuda::MathMode math : {cuda::MathMode::f32, cuda::MathMode::bf16}) {
    const auto backend = open_backend(math);
    Product product;
    emulator::fail_next_library_call();
    product.run(*backend);
    const Status status = backend->finish();
    ASSERT_FALSE(status.has_value());
    EXPECT_EQ(status.error().exit, Exit::resource);
    const std::string text = format_error(status.error());
    EXPECT_NE(text.find("matmul"), std::string::npos) << text;
    EXPECT_NE(text.find("CUBLAS_STATUS_EXECUTION_FAILED in cublasLtMatmul"), std::string::npos) << text;
    product.run(*backend);  // told once; the next one works
    ASSERT_TRUE(backend->finish().has_value());
    EXPECT_TRUE(product.is_right());
  }
}

TEST(CudaLibraries, WithoutMemoryForTheWorkspaceThereIsNoProduct) {
  const auto backend = open_backend(cuda::MathMode::f32, /*max_bytes=*/4096);
  Product product;
  product.run(*backend);
  const Status status = backend->finish();
  ASSERT_FALSE(status.has_value());
  EXPECT_EQ(status.error().exit, Exit::resource);
  EXPECT_EQ(status.error().rule, "RL01") << format_error(status.error());
}

TEST(CudaLibraries, OpenWithTheBackendWhenAsked) {
  const auto narrow = make_cuda_backend(0, {.max_bytes = 4096}), wide = make_cuda_backend(0, {});
  ASSERT_TRUE(narrow.has_value());
  ASSERT_TRUE(wide.has_value());
  const Status refused = cuda::open_libraries(**narrow);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().exit, Exit::resource);
  EXPECT_TRUE(cuda::open_libraries(**wide).has_value());
  EXPECT_NE((*wide)->description().find(cuda::describe_libraries()), std::string::npos);
  EXPECT_EQ(cuda::describe_libraries().find("no "), std::string::npos);
}

TEST(CudaLibraries, EveryAllocationOfASolverMayFail) {
  const auto backend = open_backend(cuda::MathMode::f32);
  std::vector<float> moment{4.0f, 1.0f, 1.0f, 3.0f}, upper(4);
  const InverseFactorArgs factor{.moment = moment.data(),
                                 .order = nullptr,
                                 .upper = upper.data(),
                                 .n = 2,
                                 .dead_diagonal = 1.0,
                                 .added = 0.0,
                                 .in_double = true};
  int failures = 0;
  for (int64_t nth = 1; nth < 20; ++nth) {
    cuda::fail_allocation(nth);
    const auto report = backend->statistics()->inverse_factor(factor);
    cuda::fail_allocation(0);
    if (report) break;
    EXPECT_EQ(report.error().exit, Exit::resource);
    ++failures;
  }
  EXPECT_EQ(failures, 5);  // matrix, info, report, and a buffer each for factor and inverse
  emulator::fail_next_library_call();
  const auto refused = backend->statistics()->inverse_factor(factor);
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(format_error(refused.error()).find("cusolverDnXpotrf"), std::string::npos);
  EXPECT_TRUE(backend->statistics()->inverse_factor(factor).has_value());
}

}  // namespace
}  // namespace pare::test
