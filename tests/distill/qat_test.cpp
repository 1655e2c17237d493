// Matrices trained on a grid of codes: what is stored is what multiplied, to the last bit; gradients by the
// formula.
#include "distill/qat.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "engine/backends/cpu/isa.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "engine/tensor/integer_product.h"
#include "engine/tensor/training_ops.h"
#include "tests/support/backends.h"

namespace pare::test {
namespace {

constexpr double kUnitRoundoff = 0x1p-24;

Tensor random_matrix(int64_t rows, int64_t columns, uint64_t seed, float scale = 1.0f) {
  Tensor matrix = *Tensor::allocate(DType::f32, {rows, columns});
  const Random random(seed, RandomPurpose::test_data);
  for (int64_t i = 0; i < matrix.numel(); ++i) {
    float sum = 0.0f;  // nearly normal
    for (uint64_t k = 0; k < 6; ++k) sum += 2.0f * random.uniform(uint64_t(i), k) - 1.0f;
    matrix.mutable_data<float>()[i] = scale * sum;
  }
  return matrix;
}

Tensor zeros_like(const Tensor& x) {
  return *Tensor::allocate(DType::f32, x.shape(), x.device());
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.raw(), b.raw(), a.size_bytes()) == 0;
}

QatOptions options_for(const std::string& scheme) {
  return {.scheme = *QuantScheme::parse(scheme)};
}

std::unique_ptr<WeightTransform> quantizer(const Tensor& master, const QatOptions& options) {
  auto made = make_fake_quantizer("w", master, options);
  if (!made) ADD_FAILURE() << format_error(made.error());
  return std::move(made).value();
}

Tensor stored_values(const WeightTransform& transform, const Tensor& master) {
  const auto stored = transform.stored(master);
  if (!stored) {
    ADD_FAILURE() << format_error(stored.error());
    return {};
  }
  return *stored->quantized()->dequantize();
}

double squared_distance(const Tensor& a, const Tensor& b) {
  double sum = 0.0;
  for (int64_t i = 0; i < a.numel(); ++i)
    sum += std::pow(double(a.data<float>()[i]) - double(b.data<float>()[i]), 2);
  return sum;
}

std::vector<std::string> schemes() {
  std::vector<std::string> list;
  for (int bits = 2; bits <= 8; ++bits) {
    for (const char* grouping : {"-g32", "-g64", "-ch", "-tensor"}) {
      for (const char* offset : {"-sym", "-asym"})
        list.push_back("int" + std::to_string(bits) + grouping + offset);
    }
  }
  for (const char* other :
       {"int4-g64-sym-narrow", "int8-ch-sym-full", "int4-g32-sym-sf32", "int3-g32-asym-sbf16"})
    list.emplace_back(other);
  return list;
}

class QatSchemeTest : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Schemes, QatSchemeTest, testing::ValuesIn(schemes()),
                         [](const auto& info) { return test_name(info.param); });

// Ragged last groups, steps that are not numbers of the scale type, and weights far outside the range.
TEST_P(QatSchemeTest, StoredIsWhatMultiplied) {
  for (const Arithmetic& arithmetic : arithmetics_of_this_host()) {
    SCOPED_TRACE(arithmetic.name);
    const Device device = use(arithmetic);
    const Tensor master = random_matrix(7, 200, 1, 0.05f).on(device);
    const auto transform = quantizer(master, options_for(GetParam()));
    const std::shared_ptr<Parameter> steps = transform->parameters().at(0);
    EXPECT_EQ(steps->name, "w:scales");
    Tensor effective = zeros_like(master);
    for (int round = 0; round < 3; ++round) {
      ASSERT_TRUE(transform->forward(master, effective));
      EXPECT_TRUE(same_bytes(stored_values(*transform, master), effective)) << "round " << round;
      const Random random(uint64_t(round), RandomPurpose::test_data);
      for (int64_t i = 0; i < steps->value.numel(); ++i)
        steps->value.mutable_data<float>()[i] *= 0.5f + random.uniform(uint64_t(i));
      if (round == 1) steps->value.mutable_data<float>()[0] = -0.01f;  // an optimizer that went too far
    }
    EXPECT_GT(steps->value.data<float>()[0], 0.0f);
  }
}

TEST_P(QatSchemeTest, GradientsFollowTheFormula) {
  const QuantScheme scheme = *QuantScheme::parse(GetParam());
  const auto range = code_range(scheme);
  for (const Arithmetic& arithmetic : arithmetics_of_this_host()) {
    SCOPED_TRACE(arithmetic.name);
    const Device device = use(arithmetic);
    const int64_t out = 5, in = 150;
    const Tensor master = random_matrix(out, in, 2, 0.1f).on(device);
    const auto transform = quantizer(master, options_for(GetParam()));
    Tensor effective = zeros_like(master);
    ASSERT_TRUE(transform->forward(master, effective));
    const auto stored = *transform->stored(master);
    const Tensor zero_points = stored.quantized()->zero_points;
    const Tensor deffective = random_matrix(out, in, 3).on(device);
    Tensor dmaster = zeros_like(master);
    transform->backward(master, deffective, dmaster);

    const std::shared_ptr<Parameter> steps = transform->parameters().at(0);
    const bool is_one = scheme.granularity == QuantScheme::Granularity::tensor;
    const int64_t width = scheme.group_width(in), groups = scheme.groups(in);
    const double sharing = is_one ? double(out * in) : double(std::min(width, in));
    const double factor = 1.0 / std::sqrt(sharing * double(range.high));
    std::vector<double> want(size_t(steps->value.numel()), 0.0), size = want;
    for (int64_t i = 0; i < master.numel(); ++i) {
      const int64_t step = is_one ? 0 : i / in * groups + i % in / width;
      const float s = steps->value.data<float>()[step];  // a number of the scale type, as it starts
      const double zero = zero_points.defined() ? double(zero_points.data<uint8_t>()[step]) : 0.0;
      const double quotient = double(master.data<float>()[i] / s), code = std::nearbyint(quotient) + zero;
      const bool is_below = code<double(range.low), is_above = code> double(range.high);
      const double slope = is_below   ? double(range.low) - zero
                           : is_above ? double(range.high) - zero
                                      : std::nearbyint(quotient) - quotient;
      const double d = double(deffective.data<float>()[i]);
      ASSERT_EQ(dmaster.data<float>()[i], is_below || is_above ? 0.0f : float(d)) << i;
      want[size_t(step)] += factor * d * slope;
      size[size_t(step)] += factor * std::abs(d * slope);
    }
    for (size_t g = 0; g < want.size(); ++g)
      EXPECT_NEAR(steps->gradient.data<float>()[g], want[g], 8.0 * kUnitRoundoff * size[g]) << g;
    // Steps accumulate, weights overwrite and may lie where their gradient comes from.
    Tensor aliased = zeros_like(master);
    std::memcpy(aliased.mutable_raw(), deffective.raw(), aliased.size_bytes());
    transform->backward(master, aliased, aliased);
    EXPECT_TRUE(same_bytes(aliased, dmaster));
    for (size_t g = 0; g < want.size(); ++g)
      EXPECT_NEAR(steps->gradient.data<float>()[g], 2.0 * want[g], 16.0 * kUnitRoundoff * size[g]) << g;
  }
}

// No step of a fine grid over all sensible ones is better than the search by more than a few percent.
TEST_P(QatSchemeTest, SearchFindsNearlyTheBestSteps) {
  use({"reference", Device::reference(), 0});
  const QatOptions options = options_for(GetParam());
  const Tensor master = random_matrix(6, 128, 4, 0.02f).on(Device::reference());
  master.mutable_data<float>()[5] = 0.2f;  // an outlier
  const StepGrid grid = *initial_steps(master, options.scheme, StepInit::least_squares, "w");
  const auto transform = quantizer(master, options);
  Tensor effective = zeros_like(master);
  ASSERT_TRUE(transform->forward(master, effective));
  const double found = squared_distance(effective, master);
  const std::shared_ptr<Parameter> steps = transform->parameters().at(0);
  EXPECT_TRUE(same_bytes(steps->value, grid.scales));
  if (!options.scheme.is_symmetric()) {
    // Far better than grids that cover the whole range where a group has an outlier, never worse.
    const bool is_one = options.scheme.granularity == QuantScheme::Granularity::tensor;
    const int64_t width = is_one ? master.numel() : options.scheme.group_width(128);
    const double top = double(options.scheme.code_count() - 1);
    double covering = 0.0;
    for (int64_t begin = 0; begin < master.numel(); begin += width) {
      const float* w = master.data<float>() + begin;
      const double low = std::min(0.0, double(*std::min_element(w, w + width)));
      const double high = std::max(0.0, double(*std::max_element(w, w + width)));
      const double scale = (high - low) / top, zero = std::nearbyint(-low / scale);
      for (int64_t i = 0; i < width; ++i) {
        const double code = std::clamp(std::nearbyint(double(w[i]) / scale) + zero, 0.0, top);
        covering += std::pow(scale * (code - zero) - double(w[i]), 2);
      }
    }
    EXPECT_LE(found, 1.01 * covering);  // the scales of `covering` are not rounded
    if (options.scheme.bits == 2) {
      EXPECT_LE(found, 0.8 * covering);
    }
  }
  if (options.scheme.is_symmetric()) {
    const Tensor start = zeros_like(steps->value);
    std::memcpy(start.mutable_raw(), steps->value.raw(), start.size_bytes());
    for (double factor = 0.3; factor < 3.0; factor *= 1.03) {  // all groups by the same factor
      for (int64_t i = 0; i < start.numel(); ++i)
        steps->value.mutable_data<float>()[i] = float(factor * double(start.data<float>()[i]));
      ASSERT_TRUE(transform->forward(master, effective));
      EXPECT_GE(squared_distance(effective, master), 0.97 * found) << factor;
    }
  }
}

TEST_P(QatSchemeTest, ZerosStayZero) {
  use({"cpu", Device::cpu(), int(cpu::host_isa())});
  Tensor master = random_matrix(4, 96, 5);
  for (int64_t i = 0; i < master.numel(); i += 2) master.mutable_data<float>()[i] = 0.0f;
  for (int64_t i = 0; i < 96; ++i) master.mutable_data<float>()[i] = 0.0f;  // whole groups
  const auto transform = quantizer(master, options_for(GetParam()));
  Tensor effective = zeros_like(master);
  ASSERT_TRUE(transform->forward(master, effective));
  for (int64_t i = 0; i < master.numel(); ++i) {
    if (master.data<float>()[i] == 0.0f) {
      ASSERT_EQ(effective.data<float>()[i], 0.0f);
      ASSERT_FALSE(std::signbit(effective.data<float>()[i]));
    }
  }
}

class QatTest : public testing::Test {
 protected:
  void SetUp() override { use({"cpu", Device::cpu(), int(cpu::host_isa())}); }
  void TearDown() override { set_thread_count(0); }
};

TEST_F(QatTest, StepsOfMeanMagnitude) {
  const Tensor master = random_matrix(3, 100, 6);
  QatOptions options = options_for("int4-ch-sym-sf32");
  options.step_init = StepInit::mean_magnitude;
  const auto transform = quantizer(master, options);
  for (int64_t row = 0; row < 3; ++row) {
    double sum = 0.0;
    for (int64_t c = 0; c < 100; ++c) sum += std::abs(double(master.data<float>()[row * 100 + c]));
    EXPECT_NEAR(transform->parameters()[0]->value.data<float>()[row], 2.0 * sum / 100.0 / std::sqrt(7.0),
                1e-6);
  }
  options = options_for("int4-ch-asym");
  options.step_init = StepInit::mean_magnitude;
  EXPECT_EQ(make_fake_quantizer("w", master, options).error().exit, Exit::unsupported);
}

TEST_F(QatTest, RefusesWhatItCannotTrain) {
  const Tensor master = random_matrix(3, 128, 7);
  for (const char* scheme : {"nf4-g64", "fp8-e4m3-ch", "int4-g64-asymf"}) {
    const auto made = make_fake_quantizer("blocks.0.w", master, options_for(scheme));
    ASSERT_FALSE(made) << scheme;
    EXPECT_EQ(made.error().exit, Exit::unsupported);
    EXPECT_EQ(made.error().got, scheme);
    EXPECT_NE(made.error().where.find("blocks.0.w"), std::string::npos);
  }
  QatOptions narrow_inputs = options_for("int4-g64-sym");
  narrow_inputs.activation = ActivationQuant{.bits = 4};
  EXPECT_EQ(make_fake_quantizer("w", master, narrow_inputs).error().exit, Exit::unsupported);
  Tensor broken = random_matrix(3, 128, 7);
  broken.mutable_data<float>()[5] = INFINITY;
  EXPECT_EQ(make_fake_quantizer("w", broken, options_for("int4-g64-sym")).error().exit, Exit::numeric);
}

TEST_F(QatTest, StepsThatAreNotFiniteStopTheRun) {
  const Tensor master = random_matrix(3, 128, 8);
  for (const float value : {std::nanf(""), INFINITY, -INFINITY}) {
    const auto transform = quantizer(master, options_for("int4-g64-sym"));
    transform->parameters()[0]->value.mutable_data<float>()[1] = value;
    Tensor effective = zeros_like(master);
    const Status status = transform->forward(master, effective);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().exit, Exit::numeric);
  }
  const auto transform = quantizer(master, options_for("int4-g64-sym"));
  Tensor broken = random_matrix(3, 128, 8);
  broken.mutable_data<float>()[7] = std::nanf("");
  EXPECT_EQ(transform->stored(broken).error().exit, Exit::numeric);
}

// With the values of the codes as weights, training starts exactly at the quantized model.
TEST_F(QatTest, StartsFromCodesThatExist) {
  for (const char* text : {"int3-g64-sym", "int4-g32-asym", "int8-ch-sym", "int4-tensor-asym"}) {
    SCOPED_TRACE(text);
    const Tensor weights = random_matrix(6, 130, 9, 0.05f);
    auto first = quantizer(weights, options_for(text));
    const auto codes = first->stored(weights)->quantized();
    const Tensor master = *codes->dequantize();
    auto second = make_fake_quantizer("w", master, *codes, options_for("int8"));
    ASSERT_TRUE(second) << format_error(second.error());
    Tensor effective = zeros_like(master);
    ASSERT_TRUE((*second)->forward(master, effective));
    EXPECT_TRUE(same_bytes(effective, master));
    const auto again = (*second)->stored(master)->quantized();
    EXPECT_EQ(again->scheme.text(), text);
    EXPECT_TRUE(same_bytes(again->codes, codes->codes) && same_bytes(again->scales, codes->scales));
  }
  const Tensor weights = random_matrix(2, 64, 10);
  QuantizedTensor shuffled = *quantizer(weights, options_for("int4-g32-sym"))->stored(weights)->quantized();
  shuffled.group_index = *Tensor::allocate(DType::i32, {64});
  EXPECT_EQ(make_fake_quantizer("w", weights, shuffled, options_for("int4-g32-sym")).error().exit,
            Exit::unsupported);
}

TEST_F(QatTest, FrozenStepsHaveNoParameters) {
  const Tensor master = random_matrix(3, 64, 11);
  QatOptions options = options_for("int4-g32-sym");
  options.learns_steps = false;
  const auto transform = quantizer(master, options);
  EXPECT_TRUE(transform->parameters().empty());
  Tensor effective = zeros_like(master), dmaster = zeros_like(master);
  ASSERT_TRUE(transform->forward(master, effective));
  transform->backward(master, master, dmaster);
}

// Descent along the learned gradient brings a bad step to a good one.
TEST_F(QatTest, StepsLearn) {
  const Tensor master = random_matrix(8, 256, 12, 0.1f);
  const auto transform = quantizer(master, options_for("int3-ch-sym"));
  const std::shared_ptr<Parameter> steps = transform->parameters().at(0);
  Tensor effective = zeros_like(master), gradient = zeros_like(master), dmaster = zeros_like(master);
  ASSERT_TRUE(transform->forward(master, effective));
  const double best = squared_distance(effective, master);
  for (int64_t i = 0; i < 8; ++i) steps->value.mutable_data<float>()[i] *= 3.0f;
  ASSERT_TRUE(transform->forward(master, effective));
  const double worst = squared_distance(effective, master);
  for (int step = 0; step < 300; ++step) {
    for (int64_t i = 0; i < master.numel(); ++i)
      gradient.mutable_data<float>()[i] = effective.data<float>()[i] - master.data<float>()[i];
    std::memset(steps->gradient.mutable_raw(), 0, steps->gradient.size_bytes());
    transform->backward(master, gradient, dmaster);
    for (int64_t i = 0; i < 8; ++i)
      steps->value.mutable_data<float>()[i] -= 0.05f * steps->gradient.data<float>()[i];
    ASSERT_TRUE(transform->forward(master, effective));
  }
  EXPECT_GT(worst, 2.0 * best);
  EXPECT_LT(squared_distance(effective, master), 1.1 * best);
}

TEST_F(QatTest, SameBytesForAnyNumberOfThreads) {
  const Tensor master = random_matrix(65, 1000, 13), deffective = random_matrix(65, 1000, 14);
  QatOptions options = options_for("int4-g64-asym");
  options.activation = ActivationQuant{.mode = ActivationQuant::Mode::static_tensor, .scale = 0.01f};
  std::vector<Tensor> first;
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    const auto transform = quantizer(master, options);
    Tensor effective = zeros_like(master), dmaster = zeros_like(master), dx = random_matrix(65, 1000, 15);
    ASSERT_TRUE(transform->forward(master, effective));
    transform->backward(master, deffective, dmaster);
    transform->backward_inputs(master, dx);
    const std::vector<Tensor> results{effective, dmaster, dx, transform->parameters()[0]->gradient,
                                      transform->parameters()[1]->gradient};
    if (first.empty()) first = results;
    for (size_t i = 0; i < results.size(); ++i) EXPECT_TRUE(same_bytes(results[i], first[i])) << i;
  }
}

std::vector<ActivationQuant> activations() {
  using Mode = ActivationQuant::Mode;
  return {{.symmetric = true},
          {.symmetric = false},
          {.mode = Mode::static_tensor, .symmetric = true, .scale = 0.013f},
          {.mode = Mode::static_tensor, .symmetric = false, .scale = 0.017f, .zero_point = -9}};
}

// Inputs become exactly what the integer product multiplies.
TEST_F(QatTest, InputsAreRoundedAsTheProductRoundsThem) {
  const Tensor master = random_matrix(3, 70, 16);
  for (const ActivationQuant& activation : activations()) {
    SCOPED_TRACE(activation.text());
    QatOptions options = options_for("int8-ch-sym");
    options.activation = activation;
    const auto transform = quantizer(master, options);
    ASSERT_TRUE(transform->changes_inputs());
    const Tensor wide = random_matrix(6, 90, 17);
    for (int64_t c = 0; c < 90; ++c) {
      wide.mutable_data<float>()[c] = 0.0f;                                          // token 0: zeros
      wide.mutable_data<float>()[90 + c] *= 1e-30f;                                  // token 1: tiny
      wide.mutable_data<float>()[180 + c] = -std::abs(wide.data<float>()[180 + c]);  // token 2: one sign
    }
    wide.mutable_data<float>()[3 * 90 + 20] = std::nanf("");
    wide.mutable_data<float>()[4 * 90 + 21] = -INFINITY;
    const Tensor x = wide.columns(5, 75);
    Tensor out = *Tensor::allocate(DType::f32, {6, 70});
    transform->forward_inputs(x, out);
    for (int64_t t = 0; t < 6; ++t) {
      std::vector<int8_t> codes(70);
      const RoundedRow row =
          round_activations(activation, x.data<float>() + t * x.row_stride(), 70, codes.data());
      for (int64_t c = 0; c < 70; ++c) {
        const float want = row.scale * float(int(codes[size_t(c)]) - row.zero_point);
        const float got = out.data<float>()[t * 70 + c];
        ASSERT_TRUE(got == want || (std::isnan(got) && std::isnan(want)))
            << t << ", " << c << ": " << got << " for " << want;
      }
    }
    const auto stored = transform->stored(master)->quantized();
    ASSERT_TRUE(stored->activation.has_value());
    EXPECT_TRUE(*stored->activation == activation);
  }
}

TEST_F(QatTest, GradientsOfInputs) {
  const Tensor master = random_matrix(3, 70, 18), x = random_matrix(9, 70, 19),
               dout = random_matrix(9, 70, 20);
  for (const ActivationQuant& activation : activations()) {
    SCOPED_TRACE(activation.text());
    QatOptions options = options_for("int8-ch-sym");
    options.activation = activation;
    const auto transform = quantizer(master, options);
    Tensor dx = random_matrix(9, 70, 20);
    transform->backward_inputs(x, dx);
    if (activation.mode == ActivationQuant::Mode::dynamic_token) {
      EXPECT_TRUE(same_bytes(dx, dout));  // scales count as constants, and no value is outside
      EXPECT_EQ(transform->parameters().size(), 1u);
      continue;
    }
    const std::shared_ptr<Parameter> step = transform->parameters().at(1);
    EXPECT_EQ(step->name, "w:input_scale");
    const double low = activation.lowest_code() - activation.zero_point;
    const double high = activation.highest_code() - activation.zero_point;
    double want = 0.0, size = 0.0;
    int64_t outside = 0;
    for (int64_t i = 0; i < x.numel(); ++i) {
      const double quotient = double(x.data<float>()[i] / activation.scale),
                   nearest = std::nearbyint(quotient);
      const double d = double(dout.data<float>()[i]);
      const bool is_outside = nearest < low || nearest > high;
      const double slope = nearest < low ? low : nearest > high ? high : nearest - quotient;
      want += d * slope;
      size += std::abs(d * slope);
      outside += is_outside;
      ASSERT_EQ(dx.data<float>()[i], is_outside ? 0.0f : float(d)) << i;
    }
    EXPECT_GT(outside, 0);
    const double factor = 1.0 / std::sqrt(70.0 * 127.0);
    EXPECT_NEAR(step->gradient.data<float>()[0], factor * want, 8.0 * kUnitRoundoff * factor * size);
    // A step that went too far comes back, and is what is stored.
    step->value.mutable_data<float>()[0] = -1.0f;
    Tensor effective = zeros_like(master);
    ASSERT_TRUE(transform->forward(master, effective));
    EXPECT_EQ(step->value.data<float>()[0], 1e-8f);
    step->value.mutable_data<float>()[0] = 0.25f;
    EXPECT_EQ(transform->stored(master)->quantized()->activation->scale, 0.25f);
    step->value.mutable_data<float>()[0] = INFINITY;
    EXPECT_EQ(transform->forward(master, effective).error().exit, Exit::numeric);
  }
}

}  // namespace
}  // namespace pare::test
