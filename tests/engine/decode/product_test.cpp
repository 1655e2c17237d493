// Fused products: against the definition, at odd sizes, in every kind of weights.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/engine/decode/decode_support.h"

namespace pare {
namespace {

using test::gpu;
using test::OnGpu;
using test::TwinMatrix;

const std::vector<std::string> kKinds{
    "f32",         "bf16",        "f16",           "int4-g32-sym",  "int4-g64-asym",     "int4-g128-sym",
    "int4-ch-sym", "int8-ch-sym", "int8-g32-asym", "int8-g128-sym", "int4-g64-sym-sbf16"};

DecodeBackend& decoding() {
  return *gpu().decoding();
}

// Rows of inputs twice, with their norm: the gap of the stride holds NaN.
struct TwinRows {
  TwinRows(int64_t rows, int64_t in, int64_t stride, bool is_whole, DecodeNorm::Kind kind)
      : here(test::random_floats(rows * stride, 3)),
        gain(test::random_floats(in, 4, 0.5f, 1.5f)),
        bias(test::random_floats(in, 5)),
        gpu_rows(here),
        gpu_gain(gain),
        gpu_bias(bias),
        in(in),
        stride(stride),
        rows(rows),
        kind(kind) {
    if (is_whole) here = test::random_whole(rows * stride, 3);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = in; c < stride; ++c) here[size_t(r * stride + c)] = NAN;
    gpu_rows.write(here);
  }
  DecodeRowsIn on_host() const {
    return {here.data(), rows, stride, {kind, gain.data(), bias.data(), 1e-5f}};
  }
  DecodeRowsIn on_gpu() const {
    return {gpu_rows.data(), rows, stride, {kind, gpu_gain.data(), gpu_bias.data(), 1e-5f}};
  }

  std::vector<float> here, gain, bias;
  OnGpu<float> gpu_rows, gpu_gain, gpu_bias;
  int64_t in, stride, rows;
  DecodeNorm::Kind kind;
};

struct Shape {
  int64_t out, in, rows;
};
const std::vector<Shape> kShapes{{1, 8, 1},    {16, 64, 1},  {17, 72, 2},   {33, 200, 3}, {40, 24, 8},
                                 {96, 192, 9}, {5, 640, 16}, {130, 128, 1}, {48, 1088, 1}};

class FusedProduct : public ::testing::TestWithParam<std::string> {};

TEST_P(FusedProduct, ExactOnWholeNumbers) {
  uint64_t seed = 10;
  for (const Shape& shape : kShapes) {
    {
      const bool accumulate = ++seed % 2 == 0;
      const TwinMatrix matrix = test::make_matrix(GetParam(), shape.out, shape.in, seed, true, accumulate);
      ASSERT_EQ(decoding().why_not_fused(&matrix.there, 1, shape.rows), "");
      const TwinRows x(shape.rows, shape.in, shape.in + (accumulate ? 3 : 0), true, DecodeNorm::Kind::none);
      const int64_t stride = shape.out + 5;
      std::vector<float> want = test::random_whole(shape.rows * stride, seed);
      OnGpu<float> got(want);
      DecodeProductArgs args{x.on_host(), matrix.here, want.data(), stride, accumulate, Activation::identity};
      test::definition().product(args);
      args.in = x.on_gpu();
      args.matrix = matrix.there;
      args.out = got.data();
      decoding().product(args);
      EXPECT_EQ(got.read(), want) << GetParam() << " [" << shape.out << ", " << shape.in << "] x "
                                  << shape.rows;
    }
  }
}

// Both operands of a product are off by at most 2^-8, so by Cauchy-Schwarz |error| <= 2^-7 |x| |w|. Random ones
// stay far below half of that, and so does the rest of the arithmetic.
double bound(const TwinMatrix& matrix, double x_norm, int64_t n) {
  return 0x1p-8 * x_norm * matrix.row_norms[size_t(n)] + 1e-5;
}

// Largest norm of a row after its normalisation.
double norm_after(const TwinRows& x) {
  double largest = 0.0;
  for (int64_t r = 0; r < x.rows; ++r) {
    double squares = 0.0;
    for (int64_t c = 0; c < x.in; ++c) squares += std::pow(double(x.here[size_t(r * x.stride + c)]), 2);
    largest = std::max(largest, std::sqrt(squares));
  }
  // normal values times a gain of 2.5 at most, plus a bias of 1 at most
  return x.kind == DecodeNorm::Kind::none ? largest : 3.5 * std::sqrt(double(x.in));
}

TEST_P(FusedProduct, NormalisesItsInputs) {
  uint64_t seed = 100;
  for (const DecodeNorm::Kind kind :
       {DecodeNorm::Kind::rms, DecodeNorm::Kind::rms_plus_one, DecodeNorm::Kind::layer}) {
    for (const Shape& shape : {Shape{17, 72, 3}, Shape{40, 320, 1}, Shape{33, 64, 16}}) {
      ++seed;
      const TwinMatrix matrix = test::make_matrix(GetParam(), shape.out, shape.in, seed, false, true);
      const TwinRows x(shape.rows, shape.in, shape.in, false, kind);
      std::vector<float> want(size_t(shape.rows * shape.out));
      OnGpu<float> got(want);
      DecodeProductArgs args{x.on_host(), matrix.here, want.data(), shape.out, false, Activation::relu};
      test::definition().product(args);
      args.in = x.on_gpu();
      args.matrix = matrix.there;
      args.out = got.data();
      decoding().product(args);
      const std::vector<float> values = got.read();
      for (size_t i = 0; i < want.size(); ++i)
        ASSERT_NEAR(values[i], want[i], bound(matrix, norm_after(x), int64_t(i) % shape.out)) << i;
    }
  }
}

TEST_P(FusedProduct, GateAndUp) {
  for (const Shape& shape : {Shape{40, 192, 2}, Shape{33, 72, 16}}) {
    const TwinMatrix gate = test::make_matrix(GetParam(), shape.out, shape.in, 7, true, false);
    const TwinMatrix up = test::make_matrix(GetParam(), shape.out, shape.in, 8, true, true);
    const TwinRows x(shape.rows, shape.in, shape.in, true, DecodeNorm::Kind::none);
    for (const Activation activation : {Activation::relu, Activation::silu}) {
      std::vector<float> want(size_t(shape.rows * shape.out));
      OnGpu<float> got(want);
      DecodeGatedArgs args{x.on_host(), gate.here, up.here, want.data(), shape.out, activation};
      test::definition().gated(args);
      args.in = x.on_gpu();
      args.gate = gate.there;
      args.up = up.there;
      args.out = got.data();
      decoding().gated(args);
      const std::vector<float> values = got.read();
      for (size_t i = 0; i < want.size(); ++i) {
        // sums are exact; what is left is the function
        const double tolerance =
            activation == Activation::relu ? 0.0 : 1e-5 * std::fabs(double(want[i])) + 1e-5;
        ASSERT_NEAR(values[i], want[i], tolerance) << i;
      }
    }
  }
}

TEST_P(FusedProduct, OrderOfBlocksChangesNothing) {
  const TwinMatrix matrix = test::make_matrix(GetParam(), 72, 320, 21, false, true);
  const TwinRows x(3, 320, 320, false, DecodeNorm::Kind::layer);
  std::vector<std::vector<float>> results;
  for (int order = 0; order < 3; ++order) {
    test::set_order(order);
    OnGpu<float> got(std::vector<float>(3 * 72, 0.5f));
    decoding().product({x.on_gpu(), matrix.there, got.data(), 72, true, Activation::silu});
    results.push_back(got.read());
  }
  test::set_order(0);
  for (const auto& result : results) EXPECT_EQ(result, results[0]);
}

INSTANTIATE_TEST_SUITE_P(Kinds, FusedProduct, ::testing::ValuesIn(kKinds), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(FusedProducts, SayWhatTheyDoNotTake) {
  (void)decoding();  // the matrices below are made on its device
  const auto why = [](const std::string& kind, int64_t in, int64_t rows) {
    const TwinMatrix matrix = test::make_matrix(kind, 16, in, 1, false, false);
    return decoding().why_not_fused(&matrix.there, 1, rows);
  };
  EXPECT_EQ(why("bf16", 64, 16), "");
  EXPECT_EQ(why("bf16", 64, 17), "more than 16 rows");
  EXPECT_EQ(why("bf16", 60, 1), "a dense matrix whose inputs are no multiple of 8");
  EXPECT_EQ(why("nf4-g64", 64, 1), "codes that are not integers");
  EXPECT_EQ(why("int3-g64-sym", 64, 1), "codes of neither 4 nor 8 bits");
  EXPECT_EQ(why("int4-g48-sym", 96, 1), "groups that are no power of two from 32 on");
  const TwinMatrix q = test::make_matrix("bf16", 16, 64, 1, false, false);
  const TwinMatrix k = test::make_matrix("int4-g32-sym", 16, 64, 1, false, false);
  const DecodeMatrix both[2] = {q.there, k.there};
  EXPECT_EQ(decoding().why_not_fused(both, 2, 1), "matrices of different kinds");
}

}  // namespace
}  // namespace pare
