// A mixture of experts against its formula in double, written the plain way: every token, every chosen
// expert.
#include "engine/models/layers/experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "engine/core/parallel.h"
#include "engine/models/architecture.h"
#include "tests/support/backends.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::checked;
using testing::HasSubstr;

constexpr int64_t kHidden = 24, kInner = 40;

Weight weight_of(const Tensor& values, Device device) {
  return checked(Weight::make("w", WeightData{.form = values}, false, Tensor(), device));
}

struct Problem {
  Experts layer;
  Tensor router;
  std::vector<Tensor> gate, up, down;

  Problem(int64_t count, int64_t per_token, Device device, const Tensor& router_values) {
    layer.slots = {per_token, kInner};
    router = router_values;
    layer.router = weight_of(router, device);
    for (int64_t e = 0; e < count; ++e) {
      const std::string name = std::to_string(e);
      gate.push_back(test::random_normal({kInner, kHidden}, "gate" + name, 0.0f, 0.3f));
      up.push_back(test::random_normal({kInner, kHidden}, "up" + name, 0.0f, 0.3f));
      down.push_back(test::random_normal({kHidden, kInner}, "down" + name, 0.0f, 0.3f));
      layer.experts.push_back({.activation = Activation::silu,
                               .is_gated = true,
                               .intermediate_size = kInner,
                               .gate = weight_of(gate.back(), device),
                               .up = weight_of(up.back(), device),
                               .down = weight_of(down.back(), device)});
    }
  }

  Tensor forward(const Tensor& x) const {
    const Device device = x.device();
    Workspace workspace = checked(Workspace::reserve(layer.workspace_bytes(x.size(0)), device));
    Tensor out = checked(Tensor::allocate(DType::f32, {x.size(0), kHidden}, device));
    EXPECT_TRUE(layer.forward(x, out, workspace).has_value());
    EXPECT_EQ(workspace.peak(), workspace.capacity());
    EXPECT_EQ(workspace.used(), 0u);
    return out;
  }
};

std::vector<double> product(const Tensor& matrix, const std::vector<double>& x) {
  std::vector<double> y;
  for (int64_t row = 0; row < matrix.size(0); ++row) {
    double sum = 0.0;
    for (size_t i = 0; i < x.size(); ++i)
      sum += double(matrix.data<float>()[row * matrix.size(1) + int64_t(i)]) * x[i];
    y.push_back(sum);
  }
  return y;
}

// sum over the per_token experts with the largest logits, weighted by the softmax over those alone: the
// shares of all experts divided by their sum are the same.
std::vector<double> plain(const Problem& problem, const float* row) {
  const std::vector<double> x(row, row + kHidden);
  const std::vector<double> scores = product(problem.router, x);
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  order.resize(size_t(problem.layer.slots.per_token));
  double total = 0.0;
  for (const size_t e : order) total += std::exp(scores[e] - scores[order[0]]);
  std::vector<double> out(size_t(kHidden), 0.0);
  for (const size_t e : order) {
    std::vector<double> inner = product(problem.gate[e], x);
    const std::vector<double> up = product(problem.up[e], x);
    for (size_t i = 0; i < inner.size(); ++i) inner[i] = inner[i] / (1.0 + std::exp(-inner[i])) * up[i];
    const std::vector<double> down = product(problem.down[e], inner);
    const double share = std::exp(scores[e] - scores[order[0]]) / total;
    for (size_t i = 0; i < out.size(); ++i) out[i] += share * down[i];
  }
  return out;
}

class ExpertsLayer : public ::testing::TestWithParam<test::Arithmetic> {
 protected:
  void SetUp() override { device_ = test::use(GetParam()); }
  void TearDown() override { set_thread_count(0); }
  Device device_;
};

TEST_P(ExpertsLayer, EqualsItsFormula) {
  for (const auto& [count, per_token] : {std::pair<int64_t, int64_t>{1, 1}, {2, 1}, {5, 2}, {8, 3}, {4, 4}}) {
    const Problem problem(count, per_token, device_,
                          test::random_normal({count, kHidden}, "router", 0.0f, 1.0f));
    for (const int64_t tokens : {1, 2, 33}) {
      const Tensor x = test::random_normal({tokens, kHidden}, "x", 0.1f, 1.0f).on(device_);
      const Tensor out = problem.forward(x);
      for (int64_t t = 0; t < tokens; ++t) {
        const std::vector<double> want = plain(problem, x.data<float>() + t * kHidden);
        double largest = 0.0;
        for (const double value : want) largest = std::max(largest, std::abs(value));
        for (int64_t c = 0; c < kHidden; ++c)
          ASSERT_NEAR(out.data<float>()[t * kHidden + c], want[size_t(c)], 1e-5 * largest)
              << count << " experts, token " << t << " of " << tokens;
      }
    }
  }
}

// A router of zeros: all probabilities are equal, so the first experts are taken, in equal shares.
TEST_P(ExpertsLayer, FirstExpertsWinTies) {
  const Tensor zeros = checked(Tensor::allocate(DType::f32, {5, kHidden}));
  const Problem problem(5, 2, device_, zeros);
  const Tensor x = test::random_normal({7, kHidden}, "x", 0.1f, 1.0f).on(device_);
  Workspace workspace = checked(Workspace::reserve(problem.layer.workspace_bytes(7), device_));
  Tensor inner = checked(Tensor::allocate(DType::f32, {7, problem.layer.slots.row_width()}, device_));
  problem.layer.activate(x, inner, workspace);
  for (int64_t t = 0; t < 7; ++t) {
    for (int64_t slot = 0; slot < 2; ++slot) {
      const float* at = problem.layer.slots.at(inner, t, slot);
      EXPECT_EQ(ExpertSlots::expert(at), slot);
      EXPECT_EQ(ExpertSlots::share(at), 0.5f);
    }
  }
}

TEST_P(ExpertsLayer, SameBytesForEveryThreadCountAndInTwoParts) {
  const Problem problem(5, 2, device_, test::random_normal({5, kHidden}, "router", 0.0f, 1.0f));
  const Tensor x = test::random_normal({61, kHidden}, "x", 0.1f, 1.0f).on(device_);
  set_thread_count(1);
  const Tensor one = problem.forward(x);
  set_thread_count(3);
  const Tensor three = problem.forward(x);
  EXPECT_EQ(std::memcmp(one.raw(), three.raw(), one.size_bytes()), 0);
  Workspace workspace = checked(Workspace::reserve(problem.layer.workspace_bytes(61), device_));
  Tensor inner = checked(Tensor::allocate(DType::f32, {61, problem.layer.slots.row_width()}, device_));
  Tensor out = checked(Tensor::allocate(DType::f32, {61, kHidden}, device_));
  problem.layer.activate(x, inner, workspace);
  problem.layer.project(inner, out, workspace);
  EXPECT_EQ(std::memcmp(one.raw(), out.raw(), one.size_bytes()), 0);
}

// Values that are no numbers must not lead outside the list of experts.
TEST_P(ExpertsLayer, NotANumberChoosesExpertsThatExist) {
  const Problem problem(5, 2, device_, test::random_normal({5, kHidden}, "router", 0.0f, 1.0f));
  Tensor x = test::random_normal({3, kHidden}, "x", 0.1f, 1.0f).on(device_);
  x.mutable_data<float>()[kHidden] = std::numeric_limits<float>::quiet_NaN();
  const Tensor out = problem.forward(x);
  EXPECT_TRUE(std::isnan(out.data<float>()[kHidden]));
  EXPECT_TRUE(std::isfinite(out.data<float>()[0]) && std::isfinite(out.data<float>()[2 * kHidden]));
}

INSTANTIATE_TEST_SUITE_P(Arithmetics, ExpertsLayer, ::testing::ValuesIn(test::arithmetics_of_this_host()),
                         [](const auto& info) { return test::test_name(info.param.name); });

TEST(ExpertSlots, GatherAndCompact) {
  const ExpertSlots slots{2, 3};
  EXPECT_EQ(slots.row_width(), 10);
  Tensor x = checked(Tensor::allocate(DType::f32, {3, 10}));
  const int chosen[3][2] = {{0, 2}, {1, 2}, {0, 1}};
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t slot = 0; slot < 2; ++slot) {
      float* at = slots.at(x, row, slot);
      at[0] = float(chosen[row][slot]);
      at[1] = 0.5f;
      for (int64_t c = 0; c < 3; ++c) ExpertSlots::values(at)[c] = float(100 * row + 10 * slot + c);
    }
  }
  Tensor rows = checked(Tensor::allocate(DType::f32, {3, 3}));
  ASSERT_EQ(slots.gather(x, 0, 3, 2, rows), 2);
  const float want[] = {10, 11, 12, 110, 111, 112};
  EXPECT_EQ(std::memcmp(rows.raw(), want, sizeof want), 0);
  EXPECT_EQ(slots.gather(x, 1, 3, 0, rows), 1);
  EXPECT_EQ(rows.data<float>()[0], 200.0f);
  EXPECT_EQ(slots.gather(x, 0, 3, 4, rows), 0);
  const Tensor all = slots.compact(x);
  ASSERT_EQ(all.shape(), (Shape{6, 3}));
  const float values[] = {0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112, 200, 201, 202, 210, 211, 212};
  EXPECT_EQ(std::memcmp(all.raw(), values, sizeof values), 0);
}

TEST(Mixtral, DescribesRouterAndExperts) {
  const auto source = test::tiny_model(test::kTinyMixtral);
  const ModelDescription model = checked(describe_model(*source));
  const TensorSpec* router = model.find(Role::router, 1);
  ASSERT_NE(router, nullptr);
  EXPECT_EQ(router->name, "model.layers.1.block_sparse_moe.gate.weight");
  EXPECT_EQ(router->shape, (Shape{5, 24}));
  EXPECT_FALSE(router->is_linear);
  EXPECT_EQ(router->site, Site::mlp_in);
  EXPECT_EQ(model.find(Role::gate, 1), nullptr) << "none of no expert";
  EXPECT_EQ(model.find(Role::gate, 1, 3)->name, "model.layers.1.block_sparse_moe.experts.3.w1.weight");
  EXPECT_EQ(model.find(Role::up, 1, 3)->name, "model.layers.1.block_sparse_moe.experts.3.w3.weight");
  EXPECT_EQ(model.find(Role::down, 0, 4)->name, "model.layers.0.block_sparse_moe.experts.4.w2.weight");
  EXPECT_EQ(model.find(Role::down, 0, 4)->site, Site::mlp_out);
  EXPECT_EQ(model.find(Role::down, 0, 5), nullptr);
  EXPECT_EQ(site_text(Site::mlp_out, 4), "mlp.act expert 4");
}

TEST(Mixtral, MoreExpertsThanTensorsAreRefusedBeforeTheyAreListed) {
  auto source = std::make_shared<test::MemorySource>(
      R"({"architectures": ["MixtralForCausalLM"], "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40,
          "num_hidden_layers": 4096, "num_attention_heads": 4, "num_key_value_heads": 2,
          "num_local_experts": 4096})");
  for (int i = 0; i < 5000; ++i)
    source->add("t" + std::to_string(i), checked(Tensor::allocate(DType::f32, {1})));
  const auto refused = describe_model(*source);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::malformed);
  EXPECT_THAT(format_error(refused.error()), HasSubstr("num_local_experts"));
}

}  // namespace
}  // namespace pare
