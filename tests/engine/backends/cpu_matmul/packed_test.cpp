#include "engine/core/parallel.h"
#include "quantized_support.h"

namespace pare::cpu::test {
namespace {

std::vector<float> run(Isa isa, std::string_view kernel, const Product& p, const PackedMatrix& weight) {
  std::vector<float> out = p.before;
  Scratch scratch(packed_matmul_workspace_bytes(isa, weight, p.shape.m));
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
  kernel.empty() ? packed_matmul(isa, args) : packed_matmul_with(kernel, isa, args);
  EXPECT_TRUE(scratch.guard_is_whole());
  return out;
}

std::vector<float> dequantized(const QuantizedTensor& weight) {
  std::vector<float> values(size_t(weight.out() * weight.in()));
  weight.dequantize_rows(0, weight.out(), values.data());
  return values;
}

// A zero point or minimum leaves the sum of its group, so both parts of each weight are summed in full size.
// Rounding is relative to these parts, not to what is left of them: scale * code, scale * zero point and the
// minimum.
std::vector<float> part_sizes(const QuantizedTensor& weight) {
  QuantizedTensor parts = weight;
  if (weight.scheme.is_symmetric()) return {};
  const int64_t out = weight.out(), in = weight.in();
  for (int64_t i = 0; i < weight.minimums.numel() && weight.minimums.defined(); ++i) {
    // |minimum| + scale * code: flip the sign in a copy
    if (i == 0) parts.minimums = converted(weight.minimums, weight.minimums.dtype()).value();
    auto* bits = reinterpret_cast<uint8_t*>(parts.minimums.mutable_raw());
    const int64_t bytes = dtype_bytes(weight.minimums.dtype());
    bits[i * bytes + bytes - 1] &= 0x7f;
  }
  std::vector<float> sizes(size_t(out * in));
  parts.dequantize_rows(0, out, sizes.data());
  if (!weight.zero_points.defined()) return sizes;
  // scale * (code + zero point) <= |scale * (code - zero point)| + 2 * scale * zero point
  QuantizedTensor zeros = weight;
  zeros.codes = Tensor::allocate(DType::u8, weight.codes.shape()).value();
  std::vector<float> zero_sizes(size_t(out * in));
  zeros.dequantize_rows(0, out, zero_sizes.data());  // -scale * zero point
  for (size_t i = 0; i < sizes.size(); ++i) sizes[i] = std::fabs(sizes[i]) + 2.0f * std::fabs(zero_sizes[i]);
  return sizes;
}

void check_all_kernels(const std::shared_ptr<const QuantizedTensor>& weight, int64_t m, bool exact, bool bias,
                       bool accumulate, int64_t gap) {
  const Shape3 shape{m, weight->out(), weight->in()};
  const Product product(shape, dequantized(*weight), exact ? integers : reals, bias, accumulate, gap,
                        part_sizes(*weight));
  const double room = exact ? 0.0 : sum_epsilons(shape.k);
  for (const Isa isa : levels_of_this_host()) {
    auto packed = prepack(isa, weight);
    ASSERT_TRUE(packed.has_value());
    std::vector<std::string_view> kernels = packed_matmul_kernels(*packed);
    kernels.push_back("");
    for (const std::string_view kernel : kernels) {
      const std::string what = std::string(isa_name(isa)) + " " + std::string(kernel) + " " +
                               weight->scheme.text() + (exact ? " integers" : "");
      product.expect_close(run(isa, kernel, product, *packed), room, what);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(PackedMatmul, EverySchemeAgreesWithItsDequantizedWeights) {
  for (const QuantScheme& scheme : all_schemes()) {
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{16, 128}, {17, 131}, {33, 300}}) {
      for (const int64_t m : {1, 3, 20}) {
        check_all_kernels(random_quantized(scheme, out, in, false, 21), m, false, m == 3, out == 17,
                          out == 33 ? 3 : 0);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(PackedMatmul, IntegerSchemesAreExactOnSmallIntegers) {
  for (const QuantScheme& scheme : all_schemes()) {
    if (scheme.kind != QuantScheme::Kind::integer) continue;
    for (const int64_t m : {1, 2, 9}) {
      check_all_kernels(random_quantized(scheme, 35, 141, true, 22), m, true, true, true, 1);
      if (HasFatalFailure()) return;
    }
  }
}

class PackedShapes : public ::testing::TestWithParam<const char*> {};

TEST_P(PackedShapes, OddShapesAgree) {
  const QuantScheme scheme = scheme_of(GetParam());
  for (const int64_t m : {1, 2, 4, 5, 7, 8, 9, 14, 15, 31}) {
    for (const int64_t n : {1, 7, 15, 16, 31, 32, 33}) {
      for (const int64_t k : {1, 7, 64, 65, 127, 257}) {
        check_all_kernels(random_quantized(scheme, n, k, false, 23), m, false, n % 2 == 0, k % 2 == 0,
                          m % 2 == 0 ? 0 : 3);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(PackedShapes, AgreesAcrossBlocks) {
  const QuantScheme scheme = scheme_of(GetParam());
  for (const Shape3 shape :
       {Shape3{1, 300, 1030}, Shape3{37, 131, 577}, Shape3{530, 40, 270}, Shape3{20, 600, 90}}) {
    check_all_kernels(random_quantized(scheme, shape.n, shape.k, false, 24), shape.m, false, true, false, 0);
    if (HasFatalFailure()) return;
  }
}

TEST_P(PackedShapes, GivesTheSameBytesForEveryThreadCount) {
  for (const Shape3 shape : {Shape3{1, 2000, 333}, Shape3{3, 2000, 333}, Shape3{67, 523, 600}}) {
    const auto weight = random_quantized(scheme_of(GetParam()), shape.n, shape.k, false, 25);
    const Product p(shape, dequantized(*weight), reals, true, false, 1);
    for (const Isa isa : levels_of_this_host()) {
      const PackedMatrix packed = prepack(isa, weight).value();
      set_thread_count(1);
      const std::vector<float> one = run(isa, "", p, packed);
      for (const int threads : {2, 3, 8}) {
        set_thread_count(threads);
        const std::vector<float> several = run(isa, "", p, packed);
        EXPECT_EQ(std::memcmp(one.data(), several.data(), one.size() * sizeof(float)), 0)
            << isa_name(isa) << " with " << threads << " threads, m=" << shape.m;
      }
    }
  }
  set_thread_count(0);
}

INSTANTIATE_TEST_SUITE_P(Schemes, PackedShapes,
                         ::testing::Values("int8-ch", "int4-g64-sym", "int4-g32-asym", "int4-g64-asymf",
                                           "int3-g128", "nf4-g64", "fp8-e4m3-ch"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(PackedMatmul, ActOrderUsesTheGroupOfEachColumn) {
  for (const char* text : {"int4-g32-sym", "int4-g32-asym", "int3-g32", "int8-g32"}) {
    QuantizedTensor weight = *random_quantized(scheme_of(text), 19, 96, false, 26);
    weight.group_index = Tensor::allocate(DType::i32, {96}).value();
    Numbers numbers(27);
    for (int64_t i = 0; i < 96; ++i)
      weight.group_index.mutable_data<int32_t>()[i] = int32_t(numbers.integer(0, 2));
    for (const int64_t m : {1, 6, 21}) {
      check_all_kernels(std::make_shared<QuantizedTensor>(weight), m, false, true, false, 2);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(PackedMatmul, NamesItsKernel) {
  const auto packed =
      prepack(Isa::generic, random_quantized(scheme_of("int4-g32"), 40, 96, false, 28)).value();
  EXPECT_EQ(matmul_kernel_name(Isa::generic, packed, 1), "generic tile_gemv cpu-w4-rows8");
  EXPECT_EQ(matmul_kernel_name(Isa::generic, packed, 512), "generic tile_gemm cpu-w4-rows8");
}

}  // namespace
}  // namespace pare::cpu::test
