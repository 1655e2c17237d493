// Gradients of norms on every backend: the definition against differences, the others against the definition.
#include "tests/engine/backends/training_support.h"

namespace pare::test {
namespace {

using TrainingNormTest = TrainingTest;
PARE_INSTANTIATE_BACKENDS(TrainingNormTest);

constexpr float kEps = 1e-5f;

// One norm with its operands and results. Layer norms have a bias, whose value does not matter to gradients.
struct Norm {
  bool is_layer_norm = false, plus_one = false, accumulate = false;
  Tensor x{}, gain{}, dout{}, dx{}, dgain{}, dbias{};

  void run(Device device) {
    Workspace workspace = *Workspace::reserve(ops::norm_backward_workspace_bytes(x.size(0)), device);
    Tensor dx_here = on(dx, device), dgain_here = on(dgain, device), dbias_here = on(dbias, device);
    if (is_layer_norm) {
      ops::layer_norm_backward(x.on(device), gain.on(device), kEps, dout.on(device), accumulate, dx_here,
                               dgain_here, dbias_here, workspace);
    } else {
      ops::rms_norm_backward(x.on(device), gain.on(device), kEps, plus_one, dout.on(device), accumulate,
                             dx_here, dgain_here, workspace);
    }
  }
};

// The sum over a row of dout norm(x), in double: what the gradients are those of.
double objective(const Norm& norm, const Row& x, const Row& gain, const Row& bias, const Row& dout) {
  const auto count = double(x.size());
  double mean = 0.0, squares = 0.0, sum = 0.0;
  if (norm.is_layer_norm) {
    for (const double v : x) mean += v / count;
  }
  for (const double v : x) squares += (v - mean) * (v - mean) / count;
  for (size_t c = 0; c < x.size(); ++c) {
    const double g = gain[c] + (norm.plus_one ? 1.0 : 0.0);
    sum += dout[c] * ((x[c] - mean) / std::sqrt(squares + double(kEps)) * g + bias[c]);
  }
  return sum;
}

// Bounds: a few roundings of every term, and sums in double.
struct Bounds {
  std::vector<double> dx, dgain, dbias;
};

Bounds bounds_of(const Norm& norm) {
  const int64_t tokens = norm.x.size(0), channels = norm.x.size(1);
  Bounds bounds{{}, Row(size_t(channels), 0.0), Row(size_t(channels), 0.0)};
  for (int64_t t = 0; t < tokens; ++t) {
    const Row x = row_of(norm.x, t), dout = row_of(norm.dout, t);
    double mean = 0.0, squares = 0.0, sum = 0.0, product = 0.0;
    if (norm.is_layer_norm) mean = dot(x, Row(x.size(), 1.0)) / double(channels);
    for (const double v : x) squares += (v - mean) * (v - mean) / double(channels);
    const double r = 1.0 / std::sqrt(squares + double(kEps));
    const auto u = [&](size_t c) {
      return std::abs(dout[c] * (double(norm.gain.data<float>()[c]) + (norm.plus_one ? 1.0 : 0.0)));
    };
    for (size_t c = 0; c < x.size(); ++c) {
      sum += u(c) / double(channels);
      product += u(c) * std::abs(x[c] - mean) * r / double(channels);
    }
    for (size_t c = 0; c < x.size(); ++c) {
      const double normal = std::abs(x[c] - mean) * r;
      const double before = norm.accumulate ? 1.0 : 0.0;  // gradients that were there lie within +-1
      bounds.dx.push_back(8.0 * kUnitRoundoff * (r * (u(c) + sum + normal * product) + before));
      bounds.dgain[c] += 4.0 * kUnitRoundoff * (std::abs(dout[c]) * normal + 1.0);
      bounds.dbias[c] += 4.0 * kUnitRoundoff * (std::abs(dout[c]) + 1.0);
    }
  }
  return bounds;
}

TEST_P(TrainingNormTest, GradientsAreDerivatives) {
  for (const int kind : {0, 1, 2}) {
    for (const int64_t channels : {1, 2, 17}) {
      SCOPED_TRACE(testing::Message() << kind << " of " << channels);
      const int64_t tokens = 3;
      Norm norm{.is_layer_norm = kind == 2, .plus_one = kind == 1};
      norm.x = uniform({tokens, channels}, 1, -1.0f, 3.0f);
      norm.gain = uniform({channels}, 2, 0.5f, 2.0f);
      norm.dout = uniform({tokens, channels}, 3);
      norm.dx = zeros(DType::f32, {tokens, channels});
      norm.dgain = zeros(DType::f32, {channels});
      if (norm.is_layer_norm) norm.dbias = zeros(DType::f32, {channels});
      norm.run(device());
      const Bounds bounds = bounds_of(norm);
      const Row gain = row_of(norm.gain), bias(size_t(channels), 0.0);
      for (int64_t c = 0; c < channels; ++c) {
        double dgain = 0.0, dbias = 0.0;
        for (int64_t t = 0; t < tokens; ++t) {
          const Row x = row_of(norm.x, t), dout = row_of(norm.dout, t);
          const double dx =
              derivative([&](const Row& at) { return objective(norm, at, gain, bias, dout); }, x, size_t(c));
          EXPECT_NEAR(value_at(norm.dx, t, c), dx, bounds.dx[size_t(t * channels + c)] + 1e-7)
              << t << ", " << c;
          dgain +=
              derivative([&](const Row& at) { return objective(norm, x, at, bias, dout); }, gain, size_t(c));
          dbias +=
              derivative([&](const Row& at) { return objective(norm, x, gain, at, dout); }, bias, size_t(c));
        }
        EXPECT_NEAR(norm.dgain.data<float>()[c], dgain, 3e-6) << c;
        if (norm.is_layer_norm) {
          EXPECT_NEAR(norm.dbias.data<float>()[c], dbias, 3e-6) << c;
        }
      }
    }
  }
}

// One case against the reference: strides, gradients that were there before, dx in the place of dout.
void expect_agreement(Device device, int kind, int64_t tokens, int64_t channels, bool accumulate) {
  SCOPED_TRACE(testing::Message() << kind << ": " << tokens << " x " << channels << ", " << accumulate);
  Norm norm{.is_layer_norm = kind == 2, .plus_one = kind == 1, .accumulate = accumulate};
  Padded x(uniform({tokens, channels}, 4, -1.0f, 2.0f)), dout(uniform({tokens, channels}, 5), 3);
  Padded dx(uniform({tokens, channels}, 6), 4);
  const Tensor start = uniform({2, channels}, 7), first_dx = copy_of(dx.view());
  norm.x = x.view();
  norm.gain = uniform({channels}, 8, -2.0f, 2.0f);
  norm.dout = dout.view();
  Norm want = norm;
  norm.dx = dx.view();
  norm.dgain = copy_of(start.rows(0, 1)).reshaped({channels});
  want.dx = copy_of(first_dx);
  want.dgain = copy_of(norm.dgain);
  if (norm.is_layer_norm) {
    norm.dbias = copy_of(start.rows(1, 2)).reshaped({channels});
    want.dbias = copy_of(norm.dbias);
  }
  norm.run(device);
  want.run(Device::reference());
  EXPECT_TRUE(dx.padding_is_intact());
  const Bounds bounds = bounds_of(norm);
  EXPECT_TRUE(
      close(norm.dx, want.dx, [&](int64_t r, int64_t c) { return bounds.dx[size_t(r * channels + c)]; }));
  EXPECT_TRUE(close(as_matrix(norm.dgain), as_matrix(want.dgain),
                    [&](int64_t, int64_t c) { return bounds.dgain[size_t(c)]; }));
  if (norm.is_layer_norm) {
    EXPECT_TRUE(close(as_matrix(norm.dbias), as_matrix(want.dbias),
                      [&](int64_t, int64_t c) { return bounds.dbias[size_t(c)]; }));
  }
  // dx in the place of dout, with and without gradients of parameters: the same bytes
  if (accumulate) return;
  for (const bool has_parameters : {true, false}) {
    Norm aliased = norm;
    aliased.dout = aliased.dx = copy_of(dout.view());
    aliased.dgain = has_parameters ? copy_of(start.rows(0, 1)).reshaped({channels}) : Tensor();
    aliased.dbias =
        has_parameters && norm.is_layer_norm ? copy_of(start.rows(1, 2)).reshaped({channels}) : Tensor();
    aliased.run(device);
    EXPECT_TRUE(same_bits(aliased.dx, norm.dx));
    if (has_parameters) {
      EXPECT_TRUE(same_bits(aliased.dgain, norm.dgain));
    }
  }
}

TEST_P(TrainingNormTest, AgreesOnAllShapes) {
  for (const int kind : {0, 1, 2}) {
    for (const int64_t tokens : {1, 2, 19}) {
      for (const int64_t channels : {1, 7, 15, 16, 17, 33, 65, 129, 257, 600}) {
        for (const bool accumulate : {false, true})
          expect_agreement(device(), kind, tokens, channels, accumulate);
      }
    }
  }
}

// Widths and numbers of rows at which kernels change how they share the work.
TEST_P(TrainingNormTest, AgreesOnWideAndOnManyRows) {
  for (const int kind : {0, 2}) {
    for (const int64_t channels : {1024, 1026, 2048, 2052, 4100, 8192, 8200})
      expect_agreement(device(), kind, 3, channels, channels % 8 == 4);
    expect_agreement(device(), kind, 8300, 20, false);
    expect_agreement(device(), kind, 530, 520, false);
  }
}

// A mean a thousand times the deviation, which floats would lose.
TEST_P(TrainingNormTest, LayerNormWithALargeMean) {
  Norm norm{.is_layer_norm = true};
  norm.x = uniform({4, 200}, 9, 999.0f, 1001.0f);
  norm.gain = uniform({200}, 10, 0.5f, 2.0f);
  norm.dout = uniform({4, 200}, 11);
  Norm want = norm;
  for (Norm* one : {&norm, &want}) {
    one->dx = zeros(DType::f32, {4, 200});
    one->dgain = zeros(DType::f32, {200});
    one->dbias = zeros(DType::f32, {200});
    one->run(one == &norm ? device() : reference());
  }
  const Bounds bounds = bounds_of(norm);
  EXPECT_TRUE(close(norm.dx, want.dx, [&](int64_t r, int64_t c) { return bounds.dx[size_t(r * 200 + c)]; }));
  EXPECT_TRUE(close(as_matrix(norm.dgain), as_matrix(want.dgain),
                    [&](int64_t, int64_t c) { return bounds.dgain[size_t(c)]; }));
}

TEST_P(TrainingNormTest, SameBytesForAnyNumberOfThreads) {
  const int64_t tokens = 211, channels = 523;
  const Tensor x = uniform({tokens, channels}, 12), dout = uniform({tokens, channels}, 13);
  const Tensor gain = uniform({channels}, 14);
  for (const bool is_layer_norm : {false, true}) {
    std::vector<Norm> results;
    for (const int threads : {1, 2, 3}) {
      set_thread_count(threads);
      Norm norm{.is_layer_norm = is_layer_norm, .x = x, .gain = gain, .dout = dout};
      norm.dx = zeros(DType::f32, {tokens, channels});
      norm.dgain = zeros(DType::f32, {channels});
      norm.dbias = zeros(DType::f32, {channels});
      norm.run(device());
      results.push_back(norm);
      EXPECT_TRUE(same_bits(norm.dx, results[0].dx) && same_bits(norm.dgain, results[0].dgain));
      EXPECT_TRUE(same_bits(norm.dbias, results[0].dbias));
    }
  }
}

TEST_P(TrainingNormTest, EmptyTensorsAreNothingToDo) {
  for (const bool is_layer_norm : {false, true}) {
    Norm norm{.is_layer_norm = is_layer_norm};
    norm.x = norm.dout = norm.dx = zeros(DType::f32, {0, 16});
    norm.gain = uniform({16}, 1);
    norm.dgain = uniform({16}, 2);
    norm.run(device());
    EXPECT_TRUE(same_bits(norm.dgain, uniform({16}, 2)));
  }
}

}  // namespace
}  // namespace pare::test
