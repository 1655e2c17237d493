#include "engine/core/parallel.h"
#include "sparse_support.h"

namespace pare::cpu::test {
namespace {

std::vector<float> run(std::string_view kernel, Isa isa, const SparseKernels& kernels, const Product& p,
                       const PackedMatrix& weight) {
  std::vector<float> out = p.before;
  Scratch scratch(sparse_workspace_bytes(weight, p.shape.m));
  const PackedMatmulArgs args{.x = p.x.data(),
                              .weight = &weight,
                              .bias = p.bias.empty() ? nullptr : p.bias.data(),
                              .out = out.data(),
                              .m = p.shape.m,
                              .n = p.shape.n,
                              .k = p.shape.k,
                              .x_stride = p.x_stride,
                              .out_stride = p.out_stride,
                              .accumulate = p.accumulate,
                              .workspace = scratch.data()};
  kernel.empty() ? sparse_matmul(isa, kernels, args) : sparse_matmul_with(kernel, isa, kernels, args);
  EXPECT_TRUE(scratch.guard_is_whole());
  return out;
}

void check_all_kernels(const SparseTensor& weight, int64_t m, bool exact, bool bias, bool accumulate,
                       int64_t gap) {
  const Shape3 shape{m, weight.out(), weight.in()};
  const Product product(shape, dense_of(weight), exact ? integers : reals, bias, accumulate, gap);
  const double room = exact ? 0.0 : sum_epsilons(shape.k);
  for (const auto& [isa, kernels] : kernels_of_this_host()) {
    const auto packed = sparse_prepack(*kernels, weight);
    ASSERT_TRUE(packed.has_value());
    for (const char* kernel : {"gemv", "gemm"}) {
      product.expect_close(run(kernel, isa, *kernels, product, *packed), room,
                           std::string(kernels->name) + " " + kernel + " " + name_of(weight));
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

class SparseProduct : public ::testing::TestWithParam<const char*> {};

TEST_P(SparseProduct, EveryFormAgreesWithItsDenseMatrix) {
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{16, 128}, {17, 131}, {66, 290}}) {
    for (const SparseTensor& weight : all_forms(GetParam(), out, in, 0.5, false, 21)) {
      for (const int64_t m : {1, 3, 20}) {
        check_all_kernels(weight, m, false, m == 3, out == 17, out == 66 ? 3 : 0);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(SparseProduct, IsExactOnSmallIntegers) {
  for (const SparseTensor& weight : all_forms(GetParam(), 35, 141, 0.4, true, 22)) {
    for (const int64_t m : {1, 2, 9}) {
      check_all_kernels(weight, m, true, true, true, 1);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(SparseProduct, OddShapesAgree) {
  for (const int64_t n : {1, 7, 15, 31, 33, 65}) {
    for (const int64_t k : {1, 3, 4, 7, 63, 64, 65, 127, 257}) {
      for (const char* scheme : {"int4-g64", "int8-g32-asym"}) {
        const SparseTensor weight =
            random_sparse_codes(pattern_of(GetParam()), scheme_of(scheme), n, k, 0.3, false, 23);
        check_all_kernels(weight, n % 4 + 1, false, n % 2 == 0, k % 2 == 0, 2);
        if (HasFatalFailure()) return;
      }
      const SparseTensor weight = random_values(pattern_of(GetParam()), DType::bf16, n, k, 0.3, false, 23);
      check_all_kernels(weight, n % 6 + 1, false, n % 2 == 0, k % 2 == 0, 2);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(SparseProduct, AgreesAcrossBlocks) {
  for (const Shape3 shape : {Shape3{1, 300, 1030}, Shape3{37, 131, 700}}) {
    check_all_kernels(random_values(pattern_of(GetParam()), DType::bf16, shape.n, shape.k, 0.6, false, 24),
                      shape.m, false, true, false, 0);
    if (HasFatalFailure()) return;
    check_all_kernels(
        random_sparse_codes(pattern_of(GetParam()), scheme_of("int4-g64"), shape.n, shape.k, 0.6, false, 24),
        shape.m, false, true, false, 0);
    if (HasFatalFailure()) return;
  }
}

TEST_P(SparseProduct, GivesTheSameBytesForEveryThreadCount) {
  for (const Shape3 shape : {Shape3{1, 1500, 333}, Shape3{3, 1500, 333}, Shape3{67, 523, 400}}) {
    for (const SparseTensor& weight :
         {random_values(pattern_of(GetParam()), DType::bf16, shape.n, shape.k, 0.5, false, 25),
          random_sparse_codes(pattern_of(GetParam()), scheme_of("int4-g64"), shape.n, shape.k, 0.5, false,
                              25)}) {
      const Product p(shape, dense_of(weight), reals, true, false, 1);
      for (const auto& [isa, kernels] : kernels_of_this_host()) {
        const PackedMatrix packed = sparse_prepack(*kernels, weight).value();
        set_thread_count(1);
        const std::vector<float> one = run("", isa, *kernels, p, packed);
        for (const int threads : {2, 5}) {
          set_thread_count(threads);
          const std::vector<float> several = run("", isa, *kernels, p, packed);
          EXPECT_EQ(std::memcmp(one.data(), several.data(), one.size() * sizeof(float)), 0)
              << kernels->name << " with " << threads << " threads, m=" << shape.m << " " << name_of(weight);
        }
      }
    }
  }
  set_thread_count(0);
}

// A level gives the same bytes whatever more the processor has.
TEST_P(SparseProduct, KernelsOfOneLevelGiveTheSameBytes) {
  for (const SparseTensor& weight : all_forms(GetParam(), 75, 270, 0.5, false, 26)) {
    for (const int64_t m : {1, 2, 7, 21}) {
      const Product p({m, weight.out(), weight.in()}, dense_of(weight), reals, true, false, 0);
      for (const Isa isa : levels_of_this_host()) {
        std::vector<float> first;
        for (const SparseKernels* kernels : sparse_kernels(isa)) {
          const std::vector<float> out = run("", isa, *kernels, p, sparse_prepack(*kernels, weight).value());
          if (first.empty()) first = out;
          EXPECT_EQ(std::memcmp(first.data(), out.data(), out.size() * sizeof(float)), 0)
              << kernels->name << " m=" << m << " " << name_of(weight);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Patterns, SparseProduct, ::testing::ValuesIn(kPatterns), [](const auto& info) {
  std::string name = info.param;
  for (char& c : name) c = c == ':' || c == '-' ? '_' : c;
  return "p" + name;
});

// Denser and sparser than a kernel may expect: nothing kept, everything kept.
TEST(SparseProductDensity, ExtremesAgree) {
  for (const double density : {0.0, 0.02, 1.0}) {
    for (const SparseTensor& weight : all_forms("unstructured", 70, 150, density, false, 27)) {
      for (const int64_t m : {1, 11}) {
        check_all_kernels(weight, m, false, false, false, 0);
        if (HasFatalFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace pare::cpu::test
