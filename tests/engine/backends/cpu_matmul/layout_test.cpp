#include "engine/core/parallel.h"
#include "quantized_support.h"

namespace pare::cpu::test {
namespace {

void expect_same(const Tensor& a, const Tensor& b, const std::string& what) {
  ASSERT_EQ(a.defined(), b.defined()) << what;
  if (!a.defined()) return;
  ASSERT_EQ(a.dtype(), b.dtype()) << what;
  ASSERT_TRUE(a.shape() == b.shape()) << what << ": " << a.shape().text() << " and " << b.shape().text();
  EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.size_bytes()), 0) << what;
}

void expect_round_trip(Isa isa, const std::shared_ptr<const QuantizedTensor>& weight) {
  auto packed = prepack(isa, weight);
  ASSERT_TRUE(packed.has_value());
  auto back = unpack(*packed);
  ASSERT_TRUE(back.has_value());
  const std::string what = std::string(isa_name(isa)) + " " + weight->scheme.text() + " " +
                           weight->shape.text() + " as " + packed->layout.name;
  EXPECT_EQ(back->scheme, weight->scheme) << what;
  expect_same(back->codes, weight->codes, what + " codes");
  expect_same(back->scales, weight->scales, what + " scales");
  expect_same(back->zero_points, weight->zero_points, what + " zero points");
  expect_same(back->minimums, weight->minimums, what + " minimums");
  expect_same(back->codebook, weight->codebook, what + " codebook");
}

TEST(TileLayout, UnpackIsTheInverseOfPack) {
  for (const Isa isa : levels_of_this_host()) {
    for (const QuantScheme& scheme : all_schemes()) {
      for (const auto& [out, in] :
           {std::pair<int64_t, int64_t>{1, 1}, {16, 64}, {17, 128}, {37, 131}, {8, 300}}) {
        expect_round_trip(isa, random_quantized(scheme, out, in, false, 5));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(TileLayout, PackingGivesTheSameBytesForEveryThreadCount) {
  const auto weight = random_quantized(scheme_of("int4-g64-asym"), 300, 200, false, 6);
  set_thread_count(1);
  const auto one = prepack(host_isa(), weight);
  set_thread_count(3);
  const auto three = prepack(host_isa(), weight);
  set_thread_count(0);
  ASSERT_TRUE(one.has_value() && three.has_value());
  expect_same(one->codes, three->codes, "codes");
  expect_same(one->scales, three->scales, "scales");
  expect_same(one->offsets, three->offsets, "offsets");
}

TEST(TileLayout, NamesItself) {
  const auto name = [](Isa isa, std::string_view scheme) {
    return prepack(isa, random_quantized(scheme_of(scheme), 40, 96, false, 7)).value().layout.name;
  };
  EXPECT_EQ(name(Isa::generic, "int4-g32"), "cpu-w4-rows8");
  EXPECT_EQ(name(Isa::avx2, "int8-ch"), "cpu-w8-rows8");
  EXPECT_EQ(name(Isa::avx512, "int4-g32"), "cpu-w4-rows16");
  EXPECT_EQ(name(Isa::avx512, "nf4-g64"), "cpu-w4-rows16");
}

TEST(TileLayout, ActOrderStaysCanonical) {
  QuantizedTensor weight = *random_quantized(scheme_of("int4-g32"), 8, 64, false, 8);
  weight.group_index = Tensor::allocate(DType::i32, {64}).value();
  const auto packed = prepack(host_isa(), std::make_shared<QuantizedTensor>(weight));
  ASSERT_TRUE(packed.has_value());
  EXPECT_EQ(packed->layout.name, "canonical");
}

TEST(TileLayout, KernelsRefuseTheLayoutOfAnother) {
  const auto packed = prepack(Isa::avx512, random_quantized(scheme_of("int4-g32"), 16, 64, false, 9)).value();
  std::vector<float> x(64), out(16);
  Scratch scratch(packed_matmul_workspace_bytes(Isa::generic, packed, 1));
  const PackedMatmulArgs args{.x = x.data(),
                              .weight = &packed,
                              .bias = nullptr,
                              .out = out.data(),
                              .m = 1,
                              .n = 16,
                              .k = 64,
                              .x_stride = 64,
                              .out_stride = 16,
                              .accumulate = false,
                              .workspace = scratch.data()};
  EXPECT_THROW(packed_matmul(Isa::generic, args), InternalError);
  PackedMatrix unknown = packed;
  unknown.layout.name = "gpu-w4";
  const PackedMatmulArgs other{.x = x.data(),
                               .weight = &unknown,
                               .bias = nullptr,
                               .out = out.data(),
                               .m = 1,
                               .n = 16,
                               .k = 64,
                               .x_stride = 64,
                               .out_stride = 16,
                               .accumulate = false,
                               .workspace = scratch.data()};
  EXPECT_THROW(packed_matmul(Isa::avx512, other), InternalError);
}

}  // namespace
}  // namespace pare::cpu::test
