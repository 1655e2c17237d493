// Losses between states of student and teacher, on every backend: against differences of formulas in double
// that are written here, against the definition, and the sums of what they give.
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/engine/backends/training_support.h"

namespace pare::test {
namespace {

using TrainingStatesTest = TrainingTest;
PARE_INSTANTIATE_BACKENDS(TrainingStatesTest);

double distance(StateDistance kind, const Row& x, const Row& t) {
  if (kind == StateDistance::cosine) return 1.0 - dot(x, t) / std::sqrt(dot(x, x) * dot(t, t));
  double sum = 0.0;
  for (size_t c = 0; c < x.size(); ++c) sum += (x[c] - t[c]) * (x[c] - t[c]);
  return sum / double(x.size());
}

// Ids that count, but for every third row.
Tensor some_ids(int64_t rows) {
  std::vector<int32_t> ids;
  for (int64_t r = 0; r < rows; ++r) ids.push_back(r % 3 == 1 ? -1 : int32_t(r));
  return indices(ids);
}
bool counts(int64_t row) {
  return row % 3 != 1;
}

// Rows with gaps, gradients that are written and that are added to, at sizes around the shapes of blocks.
TEST_P(TrainingStatesTest, DistancesAndTheirGradients) {
  constexpr double kScale = 0.7;
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1},
                                      {2, 3},
                                      {7, 33},
                                      {4, 128},
                                      {5, 129},
                                      {3, 515},
                                      {2, 1030},
                                      {2, 4099},
                                      {1, 8200}}) {
    for (const StateDistance kind : {StateDistance::squared, StateDistance::cosine}) {
      for (const bool accumulate : {false, true}) {
        SCOPED_TRACE(testing::Message()
                     << rows << "x" << columns << " kind " << int(kind) << " accumulate " << accumulate);
        Padded x(uniform({rows, columns}, 1), 3), teacher(uniform({rows, columns}, 2), 4);
        Padded dx(uniform({rows, columns}, 3), 5);
        const Tensor before = copy_of(dx.view());
        Tensor values = zeros(DType::f64, {rows}).on(device()), there = dx.view().on(device());
        ops::state_distance(kind, x.view().on(device()), teacher.view().on(device()),
                            some_ids(rows).on(device()), kScale, accumulate, values, there);
        EXPECT_TRUE(dx.padding_is_intact());
        for (int64_t r = 0; r < rows; ++r) {
          const Row own = row_of(x.view(), r), other = row_of(teacher.view(), r);
          const double value = values.data<double>()[r];
          if (!counts(r)) {
            EXPECT_EQ(value, 0.0);
            for (int64_t c = 0; c < columns; ++c)
              ASSERT_EQ(value_at(dx.view(), r, c), accumulate ? value_at(before, r, c) : 0.0);
            continue;
          }
          EXPECT_NEAR(value, distance(kind, own, other), 1e-13 * double(columns) + 1e-13);
          const auto function = [&](const Row& at) { return distance(kind, at, other); };
          for (size_t c = 0; c < own.size(); c += 1 + own.size() / 40) {
            const double base = accumulate ? value_at(before, r, int64_t(c)) : 0.0;
            const double want = base + kScale * derivative(function, own, c);
            ASSERT_NEAR(value_at(dx.view(), r, int64_t(c)), want, 2e-7 * (1.0 + std::fabs(want)))
                << r << "," << c;
          }
        }
        // Without a gradient: the same values.
        Tensor again = zeros(DType::f64, {rows}).on(device()), none;
        ops::state_distance(kind, x.view().on(device()), teacher.view().on(device()),
                            some_ids(rows).on(device()), kScale, false, again, none);
        for (int64_t r = 0; r < rows; ++r) EXPECT_EQ(again.data<double>()[r], values.data<double>()[r]);
        // Without gaps, where kernels take larger loads: the same bits.
        Tensor dense = copy_of(before).on(device());
        ops::state_distance(kind, copy_of(x.view()).on(device()), copy_of(teacher.view()).on(device()),
                            some_ids(rows).on(device()), kScale, accumulate, again, dense);
        EXPECT_TRUE(same_bits(dense, dx.view()));
        for (int64_t r = 0; r < rows; ++r) EXPECT_EQ(again.data<double>()[r], values.data<double>()[r]);
      }
    }
  }
}

TEST_P(TrainingStatesTest, DistancesOfEqualAndOfEmptyStates) {
  const Tensor x = uniform({2, 70}, 4).on(device()), nothing = zeros(DType::f32, {2, 70}).on(device());
  const Tensor ids = indices({0, 1}).on(device());
  Tensor values = zeros(DType::f64, {2}).on(device()), dx = zeros(DType::f32, {2, 70}).on(device());
  ops::state_distance(StateDistance::squared, x, x, ids, 1.0, false, values, dx);
  for (const int64_t r : {0, 1}) EXPECT_EQ(values.data<double>()[r], 0.0);
  ops::state_distance(StateDistance::cosine, x, x, ids, 1.0, false, values, dx);
  for (const int64_t r : {0, 1}) EXPECT_NEAR(values.data<double>()[r], 0.0, 1e-15);
  ops::state_distance(StateDistance::cosine, nothing, x, ids, 1.0, false, values, dx);
  for (const int64_t r : {0, 1}) EXPECT_EQ(values.data<double>()[r], 1.0);
  for (int64_t c = 0; c < 140; ++c) EXPECT_TRUE(std::isfinite(dx.data<float>()[c]));
  Tensor bad = copy_of(x).on(device());
  bad.mutable_data<float>()[75] = std::numeric_limits<float>::quiet_NaN();
  for (const StateDistance kind : {StateDistance::squared, StateDistance::cosine}) {
    ops::state_distance(kind, bad, x, ids, 1.0, false, values, dx);
    EXPECT_TRUE(std::isfinite(values.data<double>()[0]));
    EXPECT_TRUE(std::isnan(values.data<double>()[1]));
  }
}

Row log_probabilities(const Row& scores, double scale) {
  const double largest = *std::max_element(scores.begin(), scores.end());
  Row logs;
  double sum = 0.0;
  for (const double score : scores) sum += std::exp((score - largest) * scale);
  for (const double score : scores) logs.push_back((score - largest) * scale - std::log(sum));
  return logs;
}

TEST_P(TrainingStatesTest, RelationsAndTheirGradients) {
  const ops::RelationScales scales{.student = 0.35, .teacher = 0.5, .gradient = 1.7};
  for (const int64_t tokens : {1, 2, 7, 31, 65, 128, 129, 300}) {
    for (const bool is_causal : {true, false}) {
      SCOPED_TRACE(testing::Message() << tokens << " tokens, causal " << is_causal);
      const Tensor content = uniform({tokens, tokens}, 5, -8.0f, 8.0f);
      Padded student(content, 3), teacher(uniform({tokens, tokens}, 6, -8.0f, 8.0f), 5);
      Tensor scores = student.view().on(device()), values = zeros(DType::f64, {tokens}).on(device());
      ops::relation_rows(scores, teacher.view().on(device()), some_ids(tokens).on(device()), is_causal,
                         scales, values);
      EXPECT_TRUE(student.padding_is_intact());
      Tensor dense = copy_of(content).on(device()), again = zeros(DType::f64, {tokens}).on(device());
      ops::relation_rows(dense, copy_of(teacher.view()).on(device()), some_ids(tokens).on(device()),
                         is_causal, scales, again);
      EXPECT_TRUE(same_bits(dense, student.view()));
      for (int64_t r = 0; r < tokens; ++r) EXPECT_EQ(again.data<double>()[r], values.data<double>()[r]);
      for (int64_t r = 0; r < tokens; ++r) {
        const int64_t seen = !counts(r) ? 0 : is_causal ? r + 1 : tokens;
        for (int64_t c = seen; c < tokens; ++c) ASSERT_EQ(value_at(student.view(), r, c), 0.0);
        if (seen == 0) {
          EXPECT_EQ(values.data<double>()[r], 0.0);
          continue;
        }
        Row own = row_of(content, r), other = row_of(teacher.view(), r);
        own.resize(size_t(seen));
        other.resize(size_t(seen));
        const Row log_s = log_probabilities(own, scales.student),
                  log_t = log_probabilities(other, scales.teacher);
        double value = 0.0, weight = 1.0;
        for (size_t c = 0; c < own.size(); ++c) {
          const double t = std::exp(log_t[c]);
          value += t * (log_t[c] - log_s[c]);
          weight += t * std::fabs(log_t[c] - log_s[c]) * (1.0 + std::fabs(log_t[c]));
        }
        EXPECT_NEAR(values.data<double>()[r], value, 16 * kUnitRoundoff * weight);
        for (size_t c = 0; c < own.size(); ++c) {
          const double s = std::exp(log_s[c]), t = std::exp(log_t[c]);
          const double bound = 16 * kUnitRoundoff * (s * (1.0 - log_s[c]) + t * (1.0 - log_t[c]));
          const double factor = scales.gradient * scales.student;
          ASSERT_NEAR(value_at(student.view(), r, int64_t(c)), factor * (s - t), factor * bound)
              << r << "," << c;
        }
      }
    }
  }
}

// The gradient is that of the value: differences of what the operation itself gives.
TEST_P(TrainingStatesTest, RelationGradientsAreDifferencesOfValues) {
  constexpr int64_t kTokens = 5;
  const ops::RelationScales scales{.student = 0.6, .teacher = 0.8, .gradient = 1.0};
  const Tensor teacher = uniform({kTokens, kTokens}, 8, -2.0f, 2.0f).on(device()),
               ids = indices({0, 1, 2, 3, 4}).on(device());
  const Tensor start = uniform({kTokens, kTokens}, 7, -2.0f, 2.0f);
  Tensor values = zeros(DType::f64, {kTokens}).on(device());
  const auto sum_at = [&](int64_t index, float change) {
    Tensor scores = copy_of(start).on(device());
    scores.mutable_data<float>()[index] += change;
    ops::relation_rows(scores, teacher, ids, true, scales, values);
    return std::accumulate(values.data<double>(), values.data<double>() + kTokens, 0.0);
  };
  Tensor gradient = copy_of(start).on(device());
  ops::relation_rows(gradient, teacher, ids, true, scales, values);
  for (int64_t i = 0; i < kTokens * kTokens; ++i)
    EXPECT_NEAR(gradient.data<float>()[i], (sum_at(i, 0.01f) - sum_at(i, -0.01f)) / 0.02, 1e-4) << i;
}

TEST_P(TrainingStatesTest, EqualRelationsAreNotApart) {
  const Tensor same = uniform({40, 40}, 9, -30.0f, 30.0f);
  Tensor scores = copy_of(same).on(device()), values = zeros(DType::f64, {40}).on(device());
  const Tensor ids = indices(std::vector<int32_t>(40, 3)).on(device());
  ops::relation_rows(scores, same.on(device()), ids, false, {.student = 0.5, .teacher = 0.5}, values);
  for (int64_t r = 0; r < 40; ++r) {
    EXPECT_NEAR(values.data<double>()[r], 0.0, 1e-14);
    for (int64_t c = 0; c < 40; ++c) ASSERT_NEAR(value_at(scores, r, c), 0.0, 1e-14);
  }
  // Far apart: finite; what is no number stays none.
  Tensor far = integers({2, 40}, 10, -2000, 2000).on(device());
  Tensor wide = zeros(DType::f32, {40, 40}).on(device());
  std::copy_n(far.data<float>(), 80, wide.mutable_data<float>());
  wide.mutable_data<float>()[120] = std::numeric_limits<float>::quiet_NaN();
  ops::relation_rows(wide, same.on(device()), ids, false, {.student = 1.0, .teacher = 1.0}, values);
  for (const int64_t r : {0, 1, 2}) EXPECT_TRUE(std::isfinite(values.data<double>()[r])) << r;
  EXPECT_TRUE(std::isnan(values.data<double>()[3]));
}

// Whole numbers: exact in any order.
TEST_P(TrainingStatesTest, MomentsAndSumsAreAdded) {
  for (const auto& [rows, columns] :
       {std::pair<int64_t, int64_t>{1, 1}, {5, 7}, {70, 130}, {3, 1030}, {2, 5000}, {1100, 3}}) {
    Padded x(integers({rows, columns}, 11), 3);
    Tensor sums = zeros(DType::f64, {2}).on(device());
    sums.mutable_data<double>()[0] = 10.0;
    double sum = 10.0, squares = 0.0;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; counts(r) && c < columns; ++c) {
        sum += value_at(x.view(), r, c);
        squares += value_at(x.view(), r, c) * value_at(x.view(), r, c);
      }
    }
    ops::state_moments(x.view().on(device()), some_ids(rows).on(device()), sums);
    EXPECT_EQ(sums.data<double>()[0], sum) << rows << "x" << columns;
    EXPECT_EQ(sums.data<double>()[1], squares) << rows << "x" << columns;
  }
  for (const int64_t count : {1, 31, 1024, 5003}) {
    Tensor x = zeros(DType::f64, {count}).on(device()), out = zeros(DType::f64, {1}).on(device());
    double want = 3.0;
    out.mutable_data<double>()[0] = 3.0;
    for (int64_t i = 0; i < count; ++i) {
      x.mutable_data<double>()[i] = double(i % 11 - 3);
      want += 0.5 * double(i % 11 - 3);
    }
    ops::add_sum(x, 0.5, out);
    EXPECT_EQ(out.data<double>()[0], want) << count;
  }
}

TEST_P(TrainingStatesTest, RowsAreAdded) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {3, 4}, {17, 33}, {130, 64}}) {
    for (const bool has_gaps : {false, true}) {
      Padded x(uniform({rows, columns}, 12), 5), out(uniform({rows, columns}, 13), 8);
      const Tensor before = copy_of(out.view());
      Tensor there = (has_gaps ? out.view() : copy_of(before)).on(device());
      ops::add_rows((has_gaps ? x.view() : copy_of(x.view())).on(device()), there);
      EXPECT_TRUE(out.padding_is_intact());
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c)
          ASSERT_EQ(float(value_at(there, r, c)),
                    float(value_at(before, r, c)) + float(value_at(x.view(), r, c)));
    }
  }
}

}  // namespace
}  // namespace pare::test
