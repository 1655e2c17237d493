#include "calibrate/second_moment.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"

namespace pare {
namespace {

class SecondMoment : public testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }
  void TearDown() override { set_thread_count(0); }
};

Tensor activations(int64_t tokens, int64_t channels, uint32_t stream) {
  Tensor x = Tensor::allocate(DType::f32, {tokens, channels}).value();
  const Random random(9, RandomPurpose::test_data, stream);
  for (int64_t i = 0; i < x.numel(); ++i)
    x.mutable_data<float>()[i] = random.normal(uint64_t(i)) + 0.5f * float(i % channels % 3);
  return x;
}

Tensor zeros(int64_t n) {
  Tensor moment = Tensor::allocate(DType::f32, {n, n}).value();
  std::memset(moment.mutable_raw(), 0, moment.size_bytes());
  return moment;
}

Workspace scratch(int64_t tokens, int64_t channels) {
  return Workspace::reserve(second_moment_workspace_bytes(tokens, channels, Device::cpu()), Device::cpu())
      .value();
}

Tensor moment_of(const std::vector<Tensor>& parts, int64_t tokens, int64_t channels) {
  Tensor moment = zeros(channels);
  Workspace workspace = scratch(tokens, channels);
  for (const Tensor& part : parts) add_second_moment(part, moment, workspace);
  finish_second_moment(moment);
  return moment;
}

// |got - sum a_t b_t| <= a few roundings of sum |a_t b_t|
void expect_products(const Tensor& got, const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  const int64_t channels = got.size(0);
  for (int64_t i = 0; i < channels; ++i)
    for (int64_t j = 0; j < channels; ++j) {
      double sum = 0.0, magnitude = 0.0;
      for (size_t part = 0; part < a.size(); ++part)
        for (int64_t t = 0; t < a[part].size(0); ++t) {
          const double product = double(a[part].data<float>()[t * channels + i]) *
                                 double(b[part].data<float>()[t * channels + j]);
          sum += product;
          magnitude += std::abs(product);
        }
      ASSERT_NEAR(got.data<float>()[i * channels + j], sum, 1e-5 * magnitude + 1e-30) << i << "," << j;
    }
}

TEST_F(SecondMoment, IsTheSumOfProducts) {
  for (const int64_t channels : {1, 5, 64, 193, 385})
    for (const int64_t tokens : {1, 3, 70}) {
      const std::vector<Tensor> parts = {activations(tokens, channels, 1), activations(tokens, channels, 2)};
      expect_products(moment_of(parts, tokens, channels), parts, parts);
    }
}

TEST_F(SecondMoment, IsExactlySymmetric) {
  const int64_t channels = 417;
  const Tensor moment = moment_of({activations(90, channels, 3)}, 90, channels);
  const float* h = moment.data<float>();
  for (int64_t i = 0; i < channels; ++i)
    for (int64_t j = 0; j < i; ++j) ASSERT_EQ(h[i * channels + j], h[j * channels + i]);
}

TEST_F(SecondMoment, SameBytesForAnyThreadCount) {
  const int64_t channels = 401, tokens = 130;
  const std::vector<Tensor> parts = {activations(tokens, channels, 4), activations(tokens, channels, 5)};
  set_thread_count(1);
  const Tensor one = moment_of(parts, tokens, channels);
  for (const int threads : {2, 5}) {
    set_thread_count(threads);
    const Tensor many = moment_of(parts, tokens, channels);
    EXPECT_EQ(0, std::memcmp(one.raw(), many.raw(), one.size_bytes())) << threads;
  }
}

TEST_F(SecondMoment, WindowsOfAWiderMatrix) {
  const Tensor wide = activations(20, 96, 6);
  Tensor dense = Tensor::allocate(DType::f32, {20, 40}).value();
  for (int64_t t = 0; t < 20; ++t)
    std::memcpy(dense.mutable_data<float>() + t * 40, wide.data<float>() + t * 96 + 16, 40 * sizeof(float));
  const Tensor a = moment_of({wide.columns(16, 56)}, 20, 40), b = moment_of({dense}, 20, 40);
  EXPECT_EQ(0, std::memcmp(a.raw(), b.raw(), a.size_bytes()));
}

TEST_F(SecondMoment, NoTokensAddNothing) {
  Tensor moment = zeros(7);
  Workspace workspace = scratch(1, 7);
  add_second_moment(Tensor::allocate(DType::f32, {0, 7}).value(), moment, workspace);
  for (int64_t i = 0; i < moment.numel(); ++i) EXPECT_EQ(moment.data<float>()[i], 0.0f);
  EXPECT_EQ(workspace.used(), 0u);
}

TEST_F(SecondMoment, CrossMomentOfTwoStreams) {
  for (const int64_t channels : {1, 33, 200}) {
    const int64_t tokens = 41;
    const std::vector<Tensor> a = {activations(tokens, channels, 7), activations(tokens, channels, 8)};
    const std::vector<Tensor> b = {activations(tokens, channels, 9), activations(tokens, channels, 10)};
    const auto compute = [&] {
      Tensor cross = zeros(channels);
      Workspace workspace = scratch(tokens, channels);
      for (size_t i = 0; i < a.size(); ++i) add_cross_moment(a[i], b[i], cross, workspace);
      return cross;
    };
    set_thread_count(1);
    const Tensor one = compute();
    set_thread_count(2);
    const Tensor two = compute();
    EXPECT_EQ(0, std::memcmp(one.raw(), two.raw(), one.size_bytes()));
    expect_products(one, a, b);
  }
}

}  // namespace
}  // namespace pare
