#include "engine/core/parallel.h"
#include "support.h"

namespace pare::cpu::test {
namespace {

std::vector<uint8_t> stored(const std::vector<float>& values, DType dtype) {
  std::vector<uint8_t> bytes(values.size() * size_t(dtype_bytes(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::f32) {
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
      continue;
    }
    const uint16_t half = dtype == DType::bf16 ? float_to_bf16(values[i]) : float_to_f16(values[i]);
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

std::vector<float> read_back(const std::vector<uint8_t>& bytes, DType dtype) {
  std::vector<float> values(bytes.size() / size_t(dtype_bytes(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::f32) {
      std::memcpy(&values[i], bytes.data() + 4 * i, 4);
      continue;
    }
    uint16_t half = 0;
    std::memcpy(&half, bytes.data() + 2 * i, 2);
    values[i] = dtype == DType::bf16 ? bf16_to_float(half) : f16_to_float(half);
  }
  return values;
}

// An empty kernel name is the choice of the table.
std::vector<float> run(Isa isa, std::string_view kernel, const Product& p, const std::vector<uint8_t>& weight,
                       DType dtype) {
  std::vector<float> out = p.before;
  Scratch scratch(matmul_workspace_bytes(isa, p.shape.m, p.shape.n, p.shape.k));
  const MatmulArgs args{.x = p.x.data(),
                        .weight = weight.data(),
                        .weight_dtype = dtype,
                        .bias = p.bias.empty() ? nullptr : p.bias.data(),
                        .out = out.data(),
                        .m = p.shape.m,
                        .n = p.shape.n,
                        .k = p.shape.k,
                        .x_stride = p.x_stride,
                        .out_stride = p.out_stride,
                        .accumulate = p.accumulate,
                        .workspace = scratch.data()};
  kernel.empty() ? matmul(isa, args) : matmul_with(kernel, isa, args);
  EXPECT_TRUE(scratch.guard_is_whole());
  return out;
}

void check_all_kernels(Shape3 shape, DType dtype, bool bias, bool accumulate, int64_t gap) {
  const std::vector<uint8_t> real_weight = stored(reals(shape.n * shape.k, 1), dtype);
  const std::vector<uint8_t> small_weight = stored(integers(shape.n * shape.k, 2), dtype);
  const Product real(shape, read_back(real_weight, dtype), reals, bias, accumulate, gap);
  const Product small(shape, read_back(small_weight, dtype), integers, bias, accumulate, gap);
  for (const Isa isa : levels_of_this_host()) {
    std::vector<std::string_view> kernels = matmul_kernels();
    kernels.push_back("");
    for (const std::string_view kernel : kernels) {
      const std::string what =
          std::string(isa_name(isa)) + " " + std::string(kernel) + " " + std::string(dtype_name(dtype));
      real.expect_close(run(isa, kernel, real, real_weight, dtype), sum_epsilons(shape.k), what);
      small.expect_close(run(isa, kernel, small, small_weight, dtype), 0.0, what + " integers");
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

class DenseMatmul : public ::testing::TestWithParam<DType> {};

TEST_P(DenseMatmul, AgreesWithTheDoubleLoopForEveryKernelAndLevel) {
  for (const int64_t m : {1, 2, 3, 5, 8, 13, 14, 15, 29}) {
    for (const int64_t n : {1, 7, 16, 17, 31, 33, 64}) {
      for (const int64_t k : {1, 15, 16, 17, 64, 131}) {
        check_all_kernels({m, n, k}, GetParam(), m % 2 == 0, n % 2 == 0, k % 2 == 0 ? 0 : 5);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(DenseMatmul, AgreesAcrossBlocksOfDepthRowsAndColumns) {
  for (const Shape3 shape :
       {Shape3{1, 300, 1000}, Shape3{4, 300, 1000}, Shape3{9, 70, 2049}, Shape3{37, 131, 577},
        Shape3{65, 97, 769}, Shape3{530, 33, 257}, Shape3{61, 600, 64}}) {
    check_all_kernels(shape, GetParam(), true, true, 3);
    if (HasFatalFailure()) return;
    check_all_kernels(shape, GetParam(), false, false, 0);
    if (HasFatalFailure()) return;
  }
}

TEST_P(DenseMatmul, GivesTheSameBytesForEveryThreadCount) {
  for (const Shape3 shape :
       {Shape3{1, 1000, 333}, Shape3{3, 1000, 333}, Shape3{67, 523, 600}, Shape3{1031, 40, 70}}) {
    const std::vector<uint8_t> weight = stored(reals(shape.n * shape.k, 1), GetParam());
    const Product p(shape, read_back(weight, GetParam()), reals, true, false, 1);
    for (const Isa isa : levels_of_this_host()) {
      set_thread_count(1);
      const std::vector<float> one = run(isa, "", p, weight, GetParam());
      for (const int threads : {2, 3, 8}) {
        set_thread_count(threads);
        const std::vector<float> several = run(isa, "", p, weight, GetParam());
        EXPECT_EQ(std::memcmp(one.data(), several.data(), one.size() * sizeof(float)), 0)
            << isa_name(isa) << " with " << threads << " threads, m=" << shape.m;
      }
    }
  }
  set_thread_count(0);
}

INSTANTIATE_TEST_SUITE_P(Weights, DenseMatmul, ::testing::Values(DType::f32, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

TEST(DenseMatmulTable, ChoosesByRowsAlone) {
  EXPECT_EQ(matmul_kernel_name(Isa::generic, 1, DType::f32), "generic dense_gemv F32");
  EXPECT_EQ(matmul_kernel_name(Isa::generic, 4096, DType::bf16), "generic dense_gemm BF16");
}

}  // namespace
}  // namespace pare::cpu::test
