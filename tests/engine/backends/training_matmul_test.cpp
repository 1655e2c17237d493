// The gradients of matmul on every backend: against the definition, and the definition against differences.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "engine/core/parallel.h"
#include "engine/tensor/tolerance.h"
#include "engine/tensor/training_ops.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16};
const std::vector<int64_t> kFew{1, 2, 14, 15, 16, 17, 33, 65};
constexpr uint8_t kGuard = 0xa5;

// Scratch memory of exactly the promised size, and whether what lies behind it is untouched.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : bytes_(bytes), memory_(zeros(DType::u8, {int64_t(bytes) + 64})) {
    for (size_t i = 0; i < 64; ++i) memory_.mutable_data<uint8_t>()[bytes_ + i] = kGuard;
  }
  void* data() { return memory_.mutable_raw(); }
  bool guard_is_whole() const {
    for (size_t i = 0; i < 64; ++i) {
      if (memory_.data<uint8_t>()[bytes_ + i] != kGuard) return false;
    }
    return true;
  }

 private:
  size_t bytes_;
  Tensor memory_;
};

void input_backward(Backend& backend, const Tensor& dout, const Tensor& weight, bool accumulate, Tensor& dx) {
  TrainingBackend& training = *backend.training();
  const int64_t m = dout.size(0), n = weight.size(0), k = weight.size(1);
  Scratch scratch(training.matmul_input_backward_workspace_bytes(m, n, k));
  training.matmul_input_backward({.dout = dout.data<float>(),
                                  .weight = weight.raw(),
                                  .weight_dtype = weight.dtype(),
                                  .dx = dx.mutable_data<float>(),
                                  .m = m,
                                  .n = n,
                                  .k = k,
                                  .dout_stride = dout.row_stride(),
                                  .dx_stride = dx.row_stride(),
                                  .accumulate = accumulate,
                                  .workspace = scratch.data()});
  EXPECT_TRUE(scratch.guard_is_whole());
}

// dbias may be undefined.
void weight_backward(Backend& backend, const Tensor& x, const Tensor& dout, Tensor& dweight,
                     const Tensor& dbias) {
  TrainingBackend& training = *backend.training();
  const int64_t m = x.size(0), n = dout.size(1), k = x.size(1);
  Scratch scratch(training.matmul_weight_backward_workspace_bytes(m, n, k));
  training.matmul_weight_backward({.x = x.data<float>(),
                                   .dout = dout.data<float>(),
                                   .dweight = dweight.mutable_data<float>(),
                                   .dbias = dbias.defined() ? dbias.mutable_data<float>() : nullptr,
                                   .m = m,
                                   .n = n,
                                   .k = k,
                                   .x_stride = x.row_stride(),
                                   .dout_stride = dout.row_stride(),
                                   .workspace = scratch.data()});
  EXPECT_TRUE(scratch.guard_is_whole());
}

double row_norm(const Tensor& x, int64_t row) {
  double squares = 0.0;
  for (int64_t i = 0; i < x.size(1); ++i) squares += value_at(x, row, i) * value_at(x, row, i);
  return std::sqrt(squares);
}

double column_norm(const Tensor& x, int64_t column) {
  double squares = 0.0;
  for (int64_t i = 0; i < x.size(0); ++i) squares += value_at(x, i, column) * value_at(x, i, column);
  return std::sqrt(squares);
}

class TrainingMatmulTest : public testing::TestWithParam<std::string> {
 protected:
  Backend& tested() { return tested_backend(GetParam()); }
};
PARE_INSTANTIATE_BACKENDS(TrainingMatmulTest);

TEST_P(TrainingMatmulTest, InputGradientIsExactOnSmallIntegers) {
  for (const DType dtype : kTypes) {
    for (const int64_t m : kFew) {
      for (const int64_t n : kFew) {
        for (const int64_t k : kFew) {
          SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " m " << m << " n " << n << " k " << k);
          const bool accumulate = (m + n + k) % 2 == 0;
          Padded dout(integers({m, n}, 1)), dx(integers({m, k}, 2, -90, 90));
          const Tensor weight = integers({n, k}, 3, -8, 8, dtype);
          Tensor want = copy_of(dx.view());
          input_backward(oracle(), dout.view(), weight, accumulate, want);
          input_backward(tested(), dout.view(), weight, accumulate, dx.view());
          ASSERT_TRUE(dx.padding_is_intact());
          ASSERT_TRUE(same_bits(dx.view(), want));
        }
      }
    }
  }
}

TEST_P(TrainingMatmulTest, WeightGradientIsExactOnSmallIntegers) {
  for (const int64_t m : kFew) {
    for (const int64_t n : kFew) {
      for (const int64_t k : kFew) {
        SCOPED_TRACE(testing::Message() << "m " << m << " n " << n << " k " << k);
        Padded x(integers({m, k}, 4)), dout(integers({m, n}, 5));
        Tensor got = integers({n, k}, 6, -90, 90), want = copy_of(got);
        Tensor dbias = m % 2 == 0 ? integers({n}, 7, -90, 90) : Tensor();
        const Tensor want_dbias = dbias.defined() ? copy_of(dbias) : Tensor();
        weight_backward(oracle(), x.view(), dout.view(), want, want_dbias);
        weight_backward(tested(), x.view(), dout.view(), got, dbias);
        ASSERT_TRUE(same_bits(got, want));
        if (dbias.defined()) {
          ASSERT_TRUE(same_bits(dbias, want_dbias));
        }
      }
    }
  }
}

// Sums of several parts: more terms, and for a weight more rows, than are packed at a time.
TEST_P(TrainingMatmulTest, InputGradientAgreesOnReals) {
  for (const DType dtype : kTypes) {
    for (const auto& [m, n, k] : {std::tuple{17, 600, 257}, {5, 4200, 37}, {70, 130, 384}}) {
      SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " m " << m << " n " << n << " k " << k);
      const Tensor dout = uniform({m, n}, 8), weight = uniform({n, k}, 9, -0.1f, 0.1f, dtype);
      Tensor got = uniform({m, k}, 10), want = copy_of(got);
      const Tensor before = copy_of(got);
      input_backward(oracle(), dout, weight, true, want);
      input_backward(tested(), dout, weight, true, got);
      for (int64_t column = 0; column < k; ++column) {
        const double norm = column_norm(weight, column);
        for (int64_t row = 0; row < m; ++row) {
          const double bound = tolerance::dot(n, row_norm(dout, row), norm, tested().operand_roundoff()) +
                               2.0 * tolerance::embedding(std::abs(value_at(before, row, column)));
          ASSERT_NEAR(value_at(got, row, column), value_at(want, row, column), bound) << row << "," << column;
        }
      }
    }
  }
}

TEST_P(TrainingMatmulTest, WeightGradientAgreesOnReals) {
  for (const auto& [m, n, k] : {std::tuple{600, 70, 257}, {4200, 17, 37}, {19, 2100, 33}}) {
    SCOPED_TRACE(testing::Message() << "m " << m << " n " << n << " k " << k);
    const Tensor x = uniform({m, k}, 11), dout = uniform({m, n}, 12, -0.1f, 0.1f);
    Tensor got = uniform({n, k}, 13), want = copy_of(got), dbias = uniform({1, n}, 14),
           want_dbias = copy_of(dbias);
    const Tensor before = copy_of(got), dbias_before = copy_of(dbias);
    weight_backward(oracle(), x, dout, want, want_dbias);
    weight_backward(tested(), x, dout, got, dbias);
    std::vector<double> x_norms;
    for (int64_t column = 0; column < k; ++column) x_norms.push_back(column_norm(x, column));
    for (int64_t row = 0; row < n; ++row) {
      const double norm = column_norm(dout, row);
      for (int64_t column = 0; column < k; ++column) {
        const double bound = tolerance::dot(m, norm, x_norms[size_t(column)], tested().operand_roundoff()) +
                             2.0 * tolerance::embedding(std::abs(value_at(before, row, column)));
        ASSERT_NEAR(value_at(got, row, column), value_at(want, row, column), bound) << row << "," << column;
      }
      const double bound = tolerance::dot(m, norm, std::sqrt(double(m))) +
                           2.0 * tolerance::embedding(std::abs(value_at(dbias_before, 0, row)));
      ASSERT_NEAR(value_at(dbias, 0, row), value_at(want_dbias, 0, row), bound) << row;
    }
  }
}

// What dx held must not show: a NaN would.
TEST_P(TrainingMatmulTest, OverwritesWithoutReading) {
  const Tensor dout = integers({15, 33}, 15), weight = integers({33, 17}, 16);
  Tensor got = zeros(DType::f32, {15, 17}), want = zeros(DType::f32, {15, 17});
  for (int64_t i = 0; i < got.numel(); ++i) got.mutable_data<float>()[i] = std::nanf("");
  input_backward(oracle(), dout, weight, false, want);
  input_backward(tested(), dout, weight, false, got);
  EXPECT_TRUE(same_bits(got, want));
}

TEST_P(TrainingMatmulTest, ResultsDoNotDependOnThreads) {
  const Tensor x = uniform({700, 130}, 17), dout = uniform({700, 301}, 18);
  const Tensor weight = uniform({301, 130}, 19, -1.0f, 1.0f, DType::bf16);
  std::vector<Tensor> inputs, weights, biases;
  for (const int threads : {1, 2, 5}) {
    set_thread_count(threads);
    Tensor dx = zeros(DType::f32, {700, 130}), dweight = uniform({301, 130}, 20), dbias = uniform({301}, 21);
    input_backward(tested(), dout, weight, false, dx);
    weight_backward(tested(), x, dout, dweight, dbias);
    inputs.push_back(dx);
    weights.push_back(dweight);
    biases.push_back(dbias);
  }
  set_thread_count(0);
  for (size_t i = 1; i < inputs.size(); ++i) {
    EXPECT_TRUE(same_bits(inputs[i], inputs[0]));
    EXPECT_TRUE(same_bits(weights[i], weights[0]));
    EXPECT_TRUE(same_bits(biases[i], biases[0]));
  }
}

// loss = sum of dout * (x W^T + bias), in double, with the product of the definition.
struct Losses {
  Tensor x, weight, bias, dout;

  double at() const {
    const int64_t m = x.size(0), n = weight.size(0), k = weight.size(1);
    Tensor out = zeros(DType::f32, {m, n});
    oracle().matmul({.x = x.data<float>(),
                     .weight = weight.raw(),
                     .weight_dtype = DType::f32,
                     .bias = bias.data<float>(),
                     .out = out.mutable_data<float>(),
                     .m = m,
                     .n = n,
                     .k = k,
                     .x_stride = k,
                     .out_stride = n,
                     .accumulate = false,
                     .workspace = nullptr});
    double sum = 0.0;
    for (int64_t i = 0; i < out.numel(); ++i)
      sum += double(out.data<float>()[i]) * double(dout.data<float>()[i]);
    return sum;
  }
  // Central difference in one element of `parameter`, which shares memory with x, weight or bias.
  double slope(const Tensor& parameter, int64_t index) const {
    constexpr float kStep = 0.5f;  // a power of two, and large: the loss is linear in each
    float& value = parameter.mutable_data<float>()[index];
    const float kept = value;
    value = kept + kStep;
    const double above = at();
    value = kept - kStep;
    const double below = at();
    value = kept;
    return (above - below) / (2.0 * double(kStep));
  }
  // roundoff: of the factors. Every gradient is a sum of at most 11 products of numbers below 1.
  void expect_slopes(const char* what, const Tensor& parameter, const Tensor& gradient, double roundoff) const {
    double largest = 0.0;
    for (int64_t i = 0; i < gradient.numel(); ++i) {
      largest = std::max(largest, std::abs(double(gradient.data<float>()[i])));
    }
    const double bound = 1e-3 * largest + tolerance::dot(11, std::sqrt(11.0), std::sqrt(11.0), roundoff);
    for (int64_t i = 0; i < gradient.numel(); ++i) {
      EXPECT_NEAR(double(gradient.data<float>()[i]), slope(parameter, i), bound) << what << " " << i;
    }
  }
};

TEST_P(TrainingMatmulTest, GradientsAreTheSlopesOfTheForward) {
  const Losses losses{uniform({9, 7}, 22), uniform({11, 7}, 23), uniform({11}, 24), uniform({9, 11}, 25)};
  Tensor dx = zeros(DType::f32, {9, 7}), dweight = zeros(DType::f32, {11, 7}),
         dbias = zeros(DType::f32, {11});
  input_backward(tested(), losses.dout, losses.weight, false, dx);
  weight_backward(tested(), losses.x, losses.dout, dweight, dbias);
  const double roundoff = tested().operand_roundoff();
  losses.expect_slopes("x", losses.x, dx, roundoff);
  losses.expect_slopes("weight", losses.weight, dweight, roundoff);
  losses.expect_slopes("bias", losses.bias, dbias, roundoff);
}

// The ops, on the device of the backend under test.
class TrainingMatmulOpsTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    for (const TestBackend& backend : test_backends()) {
      if (backend.name == GetParam()) install_backend(backend.make());
    }
    device_ = tested_backend(GetParam()).device();
  }
  Tensor floats(const Shape& shape, uint64_t seed) {
    const Tensor values = integers(shape, seed), tensor = *Tensor::allocate(DType::f32, shape, device_);
    std::copy_n(values.data<float>(), values.numel(), tensor.mutable_data<float>());
    return tensor;
  }
  Device device_;
};
PARE_INSTANTIATE_BACKENDS(TrainingMatmulOpsTest);

double dot_of_columns(const Tensor& a, int64_t i, const Tensor& b, int64_t j) {
  double sum = 0.0;
  for (int64_t row = 0; row < a.size(0); ++row) sum += value_at(a, row, i) * value_at(b, row, j);
  return sum;
}

TEST_P(TrainingMatmulOpsTest, TakesStridedViews) {
  ASSERT_TRUE(ops::can_train(device_));
  const Tensor x = floats({12, 40}, 1).columns(3, 26), dout = floats({12, 30}, 2).columns(8, 25);
  const Tensor weight = floats({17, 23}, 3);
  Tensor dx = floats({12, 29}, 4).columns(0, 23), dweight = floats({17, 23}, 5), dbias = floats({17}, 6);
  const Tensor dweight_before = copy_of(dweight), dbias_before = copy_of(dbias);
  Workspace workspace =
      *Workspace::reserve(std::max(ops::matmul_input_backward_workspace_bytes(device_, 12, 17, 23),
                                   ops::matmul_weight_backward_workspace_bytes(device_, 12, 17, 23)),
                          device_);
  ops::matmul_input_backward(dout, weight, false, dx, workspace);
  ops::matmul_weight_backward(x, dout, dweight, dbias, workspace);
  EXPECT_EQ(workspace.used(), 0u);
  for (int64_t k = 0; k < 23; ++k) {
    for (int64_t m = 0; m < 12; ++m) {
      double sum = 0.0;
      for (int64_t n = 0; n < 17; ++n) sum += value_at(dout, m, n) * value_at(weight, n, k);
      EXPECT_EQ(value_at(dx, m, k), sum) << m << "," << k;
    }
    for (int64_t n = 0; n < 17; ++n) {
      EXPECT_EQ(value_at(dweight, n, k), value_at(dweight_before, n, k) + dot_of_columns(dout, n, x, k));
    }
  }
  const Tensor ones = *Tensor::allocate(DType::f32, {12, 1}, device_);
  std::fill_n(ones.mutable_data<float>(), 12, 1.0f);
  for (int64_t n = 0; n < 17; ++n) {
    EXPECT_EQ(dbias.data<float>()[n],
              dbias_before.data<float>()[n] + float(dot_of_columns(dout, n, ones, 0)));
  }
}

TEST_P(TrainingMatmulOpsTest, LeadingAxesAreRows) {
  Workspace workspace = *Workspace::reserve(1 << 16, device_);
  const Tensor x = floats({12, 7}, 1), dout = floats({12, 5}, 2), weight = floats({5, 7}, 3);
  const Tensor x3 = floats({3, 4, 7}, 1), dout3 = floats({3, 4, 5}, 2);  // the same elements
  Tensor dx = floats({12, 7}, 4), dx3 = floats({3, 4, 7}, 4), dweight = floats({5, 7}, 5);
  Tensor dweight3 = floats({5, 7}, 5), undefined;
  const Tensor before = copy_of(dweight);
  ops::matmul_input_backward(dout, weight, true, dx, workspace);
  ops::matmul_input_backward(dout3, weight, true, dx3, workspace);
  ops::matmul_weight_backward(x, dout, dweight, undefined, workspace);
  ops::matmul_weight_backward(x3, dout3, dweight3, undefined, workspace);
  EXPECT_TRUE(std::equal(dx.data<float>(), dx.data<float>() + dx.numel(), dx3.data<float>()));
  EXPECT_TRUE(same_bits(dweight3, dweight));
  EXPECT_FALSE(same_bits(dweight, before));
}

TEST_P(TrainingMatmulOpsTest, EmptyTensorsAndSumsOverNothing) {
  Workspace none;
  Tensor dx = floats({4, 3}, 1), undefined;
  const Tensor before = copy_of(dx), no_dout = floats({4, 0}, 2), no_weight = floats({0, 3}, 3);
  ops::matmul_input_backward(no_dout, no_weight, true, dx, none);
  EXPECT_TRUE(same_bits(dx, before));
  ops::matmul_input_backward(no_dout, no_weight, false, dx, none);
  EXPECT_TRUE(same_bits(dx, zeros(DType::f32, {4, 3})));
  Tensor no_dx = floats({0, 3}, 4);
  ops::matmul_input_backward(floats({0, 5}, 5), floats({5, 3}, 6), false, no_dx, none);

  Tensor dweight = floats({5, 3}, 7), dbias = floats({5}, 8);
  const Tensor dweight_before = copy_of(dweight), dbias_before = copy_of(dbias);
  ops::matmul_weight_backward(floats({0, 3}, 9), floats({0, 5}, 10), dweight, dbias, none);
  EXPECT_TRUE(same_bits(dweight, dweight_before));
  EXPECT_TRUE(same_bits(dbias, dbias_before));

  const Tensor dout = floats({4, 5}, 11);
  Tensor no_columns = floats({5, 0}, 12);
  ops::matmul_weight_backward(floats({4, 0}, 13), dout, no_columns, undefined, none);
  ops::matmul_weight_backward(floats({4, 0}, 13), dout, no_columns, dbias, none);
  for (int64_t n = 0; n < 5; ++n) {
    double sum = value_at(dbias_before, 0, n);
    for (int64_t m = 0; m < 4; ++m) sum += value_at(dout, m, n);
    EXPECT_EQ(double(dbias.data<float>()[n]), sum);
  }
  EXPECT_EQ(ops::matmul_input_backward_workspace_bytes(device_, 0, 5, 3), 0u);
  EXPECT_EQ(ops::matmul_weight_backward_workspace_bytes(device_, 4, 5, 0), 0u);
}

TEST_P(TrainingMatmulOpsTest, RefusesWhatDoesNotFit) {
  Workspace workspace = *Workspace::reserve(1 << 16, device_);
  const Tensor x = floats({4, 3}, 1), dout = floats({4, 5}, 2), weight = floats({5, 3}, 3);
  Tensor dx = floats({4, 3}, 4), dweight = floats({5, 3}, 5), dbias = floats({5}, 6), undefined;
  Tensor narrow = floats({4, 2}, 7), turned = floats({3, 5}, 8), short_bias = floats({4}, 9);
  Tensor half = *Tensor::allocate(DType::bf16, {5, 3}, device_);
  EXPECT_THROW(ops::matmul_input_backward(dout, weight, false, narrow, workspace), InternalError);
  EXPECT_THROW(ops::matmul_input_backward(narrow, weight, false, dx, workspace), InternalError);
  EXPECT_THROW(ops::matmul_input_backward(dout, turned, false, dx, workspace), InternalError);
  EXPECT_THROW(ops::matmul_input_backward(dout, undefined, false, dx, workspace), InternalError);
  EXPECT_THROW(ops::matmul_input_backward(undefined, weight, false, dx, workspace), InternalError);
  EXPECT_THROW(ops::matmul_weight_backward(narrow, dout, dweight, dbias, workspace), InternalError);
  EXPECT_THROW(ops::matmul_weight_backward(x, dout, turned, dbias, workspace), InternalError);
  EXPECT_THROW(ops::matmul_weight_backward(x, dout, half, dbias, workspace), InternalError);
  EXPECT_THROW(ops::matmul_weight_backward(x, dout, dweight, short_bias, workspace), InternalError);
  EXPECT_THROW(ops::matmul_weight_backward(x, dout, undefined, dbias, workspace), InternalError);
  Tensor elsewhere = zeros(DType::f32, {4, 3});
  EXPECT_THROW(ops::matmul_input_backward(dout, weight, false, elsewhere, workspace), InternalError);
  ops::matmul_input_backward(dout, weight, false, dx, workspace);
  ops::matmul_weight_backward(x, dout, dweight, dbias, workspace);
}

}  // namespace
}  // namespace pare::test
