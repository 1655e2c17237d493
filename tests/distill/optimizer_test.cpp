#include "distill/optimizer.h"

#include <cmath>
#include <limits>

#include "tests/distill/training_support.h"

namespace pare {
namespace {

using test::checked;
using test::floats;
using test::parameter;
using Kind = Parameter::Kind;

class OptimizerTest : public test::TrainingTest {
 protected:
  std::unique_ptr<GradientExchange> alone_ = single_process();

  std::unique_ptr<Optimizer> make(ParameterList parameters, const OptimizerConfig& config) {
    return checked(Optimizer::make(std::move(parameters), config, *alone_));
  }
};
PARE_TRAINING_SUITE(OptimizerTest);

void expect_near(const Tensor& tensor, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(size_t(tensor.numel()), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(tensor.data<float>()[i], expected[i], tolerance) << "element " << i;
}

// torch.optim.AdamW([{'params': [w], 'weight_decay': 0.1}, {'params': [b], 'weight_decay': 0.0}], lr=1e-2,
//                   betas=(0.9, 0.95), eps=1e-8), five times:
//   w.grad = torch.sin(torch.arange(6.).reshape(2, 3) * 0.7 + t); b.grad = 0.01 * torch.cos(torch.arange(3.)
//   * 1.3 - t) torch.nn.utils.clip_grad_norm_([w, b], 1.0); opt.step()
TEST_P(OptimizerTest, FiveStepsOfAdamWEqualPyTorch) {
  const auto w =
      parameter("w", Kind::matrix, floats({2, 3}, {0.5f, -1.25f, 2.0f, 0.75f, -0.5f, 1.5f}, device_));
  const auto b = parameter("b", Kind::bias, floats({3}, {0.25f, -0.75f, 1.0f}, device_));
  const auto optimizer = make({w, b}, {});
  const std::vector<double> norms = {1.53840970993042, 1.8653439283370972, 1.7985073328018188,
                                     1.5250039100646973, 1.8240242004394531};
  for (int t = 0; t < 5; ++t) {
    for (int i = 0; i < 6; ++i) w->gradient.mutable_data<float>()[i] = std::sin(float(i) * 0.7f + float(t));
    for (int i = 0; i < 3; ++i)
      b->gradient.mutable_data<float>()[i] = 0.01f * std::cos(float(i) * 1.3f - float(t));
    const double norm = checked(optimizer->gradient_norm(1.0));
    EXPECT_NEAR(norm, norms[size_t(t)], 1e-6);
    checked(optimizer->step(1e-2, clip_factor(norm, 1.0)));
  }
  expect_near(w->value, {0.471209615, -1.27748895, 1.966537, 0.736325145, -0.487941861, 1.52938676}, 1e-6);
  expect_near(b->value, {0.229383782, -0.787310183, 1.00970447}, 1e-6);
  EXPECT_EQ(optimizer->steps(), 5);
}

// torch.optim.SGD([w], lr=0.1, momentum=0.9), four times: w.grad = torch.sin(torch.arange(3.) + t)
TEST_P(OptimizerTest, FourStepsOfSgdEqualPyTorch) {
  const auto w = parameter("w", Kind::norm, floats({3}, {1.0f, -2.0f, 0.5f}, device_));
  const auto optimizer = make({w}, {.kind = OptimizerKind::sgd, .momentum = 0.9, .clip_norm = 0.0});
  for (int t = 0; t < 4; ++t) {
    for (int i = 0; i < 3; ++i) w->gradient.mutable_data<float>()[i] = std::sin(float(i + t));
    checked(optimizer->step(0.1, clip_factor(checked(optimizer->gradient_norm(1.0)), 0.0)));
  }
  expect_near(w->value, {0.585082889, -2.48693419, 0.388734013}, 1e-6);
}

// docs/methods.md, training: the two published steps.
TEST_P(OptimizerTest, CheckValuesOfTheMethodPage) {
  const auto w = parameter("w", Kind::matrix, floats({1, 1}, {1.0f}, device_));
  const auto optimizer = make({w}, {.beta2 = 0.999});
  w->gradient.mutable_data<float>()[0] = 0.1f;
  checked(optimizer->step(1e-3, 1.0));
  EXPECT_NEAR(w->value.data<float>()[0], 0.9989000001, 1e-7);
  w->gradient.mutable_data<float>()[0] = -0.2f;
  checked(optimizer->step(1e-3, 1.0));
  EXPECT_NEAR(w->value.data<float>()[0], 0.99916621, 1e-7);
}

// With a gradient of zero only decay moves a weight; with one of one, AdamW's first step is lr whatever the
// scale.
TEST_P(OptimizerTest, KindsDecideDecayAndRate) {
  const auto run = [&](Kind kind, float gradient, bool decays_embeddings) {
    const auto w = parameter("w", kind, floats({1, 2}, {2.0f, 2.0f}, device_));
    w->gradient.mutable_data<float>()[0] = w->gradient.mutable_data<float>()[1] = gradient;
    const auto optimizer = make({w}, {.decay = 0.5, .decays_embeddings = decays_embeddings});
    checked(optimizer->step(0.01, 1.0));
    return double(w->value.data<float>()[0]);
  };
  const double decayed = 2.0 * (1.0 - 0.01 * 0.5);
  EXPECT_NEAR(run(Kind::matrix, 0.0f, false), decayed, 1e-6);
  EXPECT_NEAR(run(Kind::adapter, 0.0f, false), decayed, 1e-6);
  EXPECT_NEAR(run(Kind::embedding, 0.0f, true), decayed, 1e-6);
  EXPECT_EQ(run(Kind::embedding, 0.0f, false), 2.0);
  EXPECT_EQ(run(Kind::norm, 0.0f, true), 2.0);
  EXPECT_EQ(run(Kind::bias, 0.0f, true), 2.0);
  EXPECT_EQ(run(Kind::step, 0.0f, true), 2.0);
  EXPECT_NEAR(run(Kind::bias, 1.0f, false), 2.0 - 0.01, 1e-6);
  EXPECT_NEAR(run(Kind::step, 1.0f, false), 2.0 - 0.1, 1e-6);
}

TEST_P(OptimizerTest, RemovedWeightsStayZeroAndCountForNothing) {
  const auto w = parameter("w", Kind::matrix, test::normals({3, 11}, device_, 1));
  Mask mask = checked(Mask::all_kept(3, 11));
  for (int64_t i = 0; i < 33; i += 4) mask.set(i / 11, i % 11, false);
  w->mask = std::make_shared<const Mask>(mask);
  const auto optimizer = make({w}, {});
  checked(optimizer->apply_masks());
  for (int t = 0; t < 3; ++t) {
    const Tensor gradient = test::normals({3, 11}, device_, uint32_t(2 + t));
    std::memcpy(w->gradient.mutable_raw(), gradient.raw(), gradient.size_bytes());
    double squares = 0.0;
    for (int64_t i = 0; i < 33; ++i)
      if (mask.kept(i / 11, i % 11)) squares += std::pow(double(gradient.data<float>()[i]), 2);
    const double norm = checked(optimizer->gradient_norm(0.5));
    EXPECT_NEAR(norm, 0.5 * std::sqrt(squares), 1e-5);
    checked(optimizer->step(0.1, 1.0));
  }
  TrainerState state;
  checked(optimizer->save(state));
  for (const Tensor& tensor : {w->value, state.tensors[0].tensor, state.tensors[1].tensor})
    for (int64_t i = 0; i < 33; ++i)
      EXPECT_EQ(tensor.data<float>()[i] == 0.0f, !mask.kept(i / 11, i % 11)) << i;
}

TEST_P(OptimizerTest, ABadGradientShowsInTheNorm) {
  const auto w = parameter("w", Kind::matrix, floats({1, 2}, {1.0f, 1.0f}, device_));
  const auto optimizer = make({w}, {});
  w->gradient.mutable_data<float>()[1] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(std::isfinite(checked(optimizer->gradient_norm(1.0))));
  w->gradient.mutable_data<float>()[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(std::isfinite(checked(optimizer->gradient_norm(1.0))));
}

ParameterList uneven_parameters(Device device) {
  return {parameter("a", Kind::embedding, test::normals({7, 5}, device, 1)),
          parameter("b", Kind::norm, test::normals({13}, device, 2)),
          parameter("c", Kind::matrix, test::normals({4, 9}, device, 3)),
          parameter("d", Kind::bias, test::normals({1}, device, 4)),
          parameter("e", Kind::matrix, test::normals({2, 31}, device, 5))};
}

void take_steps(Optimizer& optimizer, int first, int last) {
  for (int t = first; t < last; ++t) {
    uint32_t stream = uint32_t(100 * t);
    for (const auto& parameter : optimizer.parameters()) {
      const Tensor gradient = test::normals(parameter->value.shape(), parameter->value.device(), ++stream);
      std::memcpy(parameter->gradient.mutable_raw(), gradient.raw(), gradient.size_bytes());
    }
    checked(optimizer.step(0.01, 0.5));
  }
}

// Shares of two and of three ranks give the bytes of one; a state saved by one group goes on in another.
TEST_P(OptimizerTest, SharesChangeNothing) {
  const ParameterList whole = uneven_parameters(device_);
  const auto optimizer = make(whole, {});
  take_steps(*optimizer, 0, 4);
  TrainerState expected;
  checked(optimizer->save(expected));

  for (const int size : {2, 3}) {
    TrainerState half_way;
    std::vector<ParameterList> lists;
    for (int rank = 0; rank < size; ++rank) lists.push_back(uneven_parameters(device_));
    std::vector<uint64_t> held(static_cast<size_t>(size));
    test::ThreadGroup(size).run([&](GradientExchange& exchange) {
      const auto shared =
          checked(Optimizer::make(lists[size_t(exchange.rank())], {.shards_states = true}, exchange));
      take_steps(*shared, 0, 2);
      TrainerState state;
      checked(shared->save(state));
      if (exchange.is_first()) half_way = state;
      EXPECT_EQ(state.tensors.empty(), !exchange.is_first());
    });
    test::ThreadGroup(size).run([&](GradientExchange& exchange) {
      const auto shared =
          checked(Optimizer::make(lists[size_t(exchange.rank())], {.shards_states = true}, exchange));
      checked(shared->restore(exchange.is_first() ? half_way : TrainerState{}));
      EXPECT_EQ(shared->steps(), 2);
      take_steps(*shared, 2, 4);
      TrainerState state;
      checked(shared->save(state));
      if (!exchange.is_first()) return;
      ASSERT_EQ(state.tensors.size(), expected.tensors.size());
      for (size_t i = 0; i < expected.tensors.size(); ++i) {
        EXPECT_EQ(state.tensors[i].name, expected.tensors[i].name);
        EXPECT_TRUE(test::same_bytes(state.tensors[i].tensor, expected.tensors[i].tensor))
            << expected.tensors[i].name;
      }
    });
    for (const ParameterList& list : lists)
      for (size_t i = 0; i < whole.size(); ++i)
        EXPECT_TRUE(test::same_bytes(list[i]->value, whole[i]->value))
            << size << " ranks, " << whole[i]->name;
  }
}

TEST_P(OptimizerTest, AStateOfAnotherModelIsRefused) {
  const auto optimizer = make(uneven_parameters(device_), {});
  TrainerState state;
  checked(optimizer->save(state));
  state.tensors[2].tensor = test::normals({9, 4}, device_, 1);
  const Status restored = optimizer->restore(state);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().exit, Exit::malformed);
  EXPECT_EQ(restored.error().where, "m:c");
}

TEST(OptimizerConfigTest, RangesAreChecked) {
  EXPECT_TRUE(OptimizerConfig{}.validate());
  for (const OptimizerConfig& bad :
       {OptimizerConfig{.beta1 = 1.0}, OptimizerConfig{.beta2 = -0.1}, OptimizerConfig{.eps = 0.0},
        OptimizerConfig{.momentum = 1.0}, OptimizerConfig{.decay = -1.0}, OptimizerConfig{.step_rate = 0.0},
        OptimizerConfig{.clip_norm = std::numeric_limits<double>::quiet_NaN()}}) {
    const Status status = bad.validate();
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().exit, Exit::usage);
    EXPECT_EQ(status.error().rule, "CL06");
  }
  EXPECT_EQ(*optimizer_kind_from_name("sgd"), OptimizerKind::sgd);
  EXPECT_FALSE(optimizer_kind_from_name("lion"));
}

TEST(ClipFactorTest, NeverEnlarges) {
  EXPECT_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_factor(0.0, 1.0), 1.0);
  EXPECT_NEAR(clip_factor(4.0, 1.0), 0.25, 1e-6);
  EXPECT_EQ(clip_factor(4.0, 0.0), 1.0);
}

}  // namespace
}  // namespace pare
