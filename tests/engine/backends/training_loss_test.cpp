// loss_rows on every backend: against differences of losses in double that are written here, against the
// definition, and what must hold of any divergence.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include <fmt/core.h>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/reference/reference_backend.h"
#include "engine/core/parallel.h"
#include "engine/tensor/tolerance.h"
#include "engine/tensor/training_ops.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

using Doubles = std::vector<double>;
using ops::LossRowsOptions;

constexpr Divergence kKinds[] = {Divergence::forward_kl, Divergence::reverse_kl, Divergence::jensen_shannon,
                                 Divergence::total_variation};

// Which form the teacher has: logits, or k ids with a tail.
using Tail = std::optional<TeacherTail>;
const std::vector<Tail> kTails{std::nullopt, TeacherTail::bucket, TeacherTail::zero, TeacherTail::topk};

bool is_infinite(Divergence kind, Tail tail) {  // KL(p_s || 0)
  return kind == Divergence::reverse_kl && tail == TeacherTail::zero;
}

std::string describe(const LossRowsOptions& o, Tail tail) {
  return fmt::format("divergence {}, tail {}, alpha {}, temperature {} squared {}, softcap {}", int(o.kind),
                     tail ? int(*tail) : -1, o.alpha, o.temperature, o.squares_temperature, o.softcap);
}

Doubles softmax(const Doubles& x, double temperature) {
  const double largest = *std::max_element(x.begin(), x.end());
  Doubles p;
  for (const double value : x) p.push_back(std::exp((value - largest) / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

double kl(const Doubles& p, const Doubles& q) {
  double sum = 0.0;
  for (size_t i = 0; i < p.size(); ++i) sum += p[i] > 0.0 ? p[i] * std::log(p[i] / q[i]) : 0.0;
  return sum;
}

double distance(Divergence kind, double beta, const Doubles& teacher, const Doubles& student) {
  Doubles mean(teacher.size());
  double variation = 0.0;
  for (size_t i = 0; i < mean.size(); ++i) {
    mean[i] = beta * teacher[i] + (1.0 - beta) * student[i];
    variation += 0.5 * std::abs(teacher[i] - student[i]);
  }
  switch (kind) {
    case Divergence::none:
      break;
    case Divergence::forward_kl:
      return kl(teacher, student);
    case Divergence::reverse_kl:
      return kl(student, teacher);
    case Divergence::jensen_shannon:
      return beta * kl(teacher, mean) + (1.0 - beta) * kl(student, mean);
    case Divergence::total_variation:
      return variation;
  }
  return 0.0;
}

// The k ids of a row, and the logarithms of their probabilities.
struct Known {
  std::vector<int32_t> ids;
  Doubles log_probs;
};

struct Losses {
  double cross_entropy = 0.0, divergence = 0.0;
};

// A row's losses, straight from their definitions.
Losses losses_of(const LossRowsOptions& o, Tail tail, const Doubles& student, const Doubles& teacher,
                 const Known& known, int32_t target) {
  const Doubles p = softmax(student, 1.0), p_s = softmax(student, double(o.temperature));
  Doubles t, s;
  if (!tail) {
    if (!teacher.empty()) t = softmax(teacher, double(o.temperature));
    s = t.empty() ? Doubles{} : p_s;
  } else {
    double t_sum = 0.0, s_sum = 0.0;
    for (size_t i = 0; i < known.ids.size(); ++i) {
      t.push_back(std::exp(known.log_probs[i]));
      s.push_back(p_s[size_t(known.ids[i])]);
      t_sum += t.back();
      s_sum += s.back();
    }
    if (*tail == TeacherTail::bucket) {
      t.push_back(std::clamp(1.0 - t_sum, 1e-8, 1.0));
      s.push_back(std::clamp(1.0 - s_sum, 1e-8, 1.0));
    } else {
      for (double& value : t) value /= t_sum;
      for (double& value : s) value /= *tail == TeacherTail::topk ? s_sum : 1.0;
    }
    if (*tail == TeacherTail::zero) {
      for (size_t i = 0; i < p_s.size(); ++i) {
        if (std::find(known.ids.begin(), known.ids.end(), int32_t(i)) != known.ids.end()) continue;
        t.push_back(0.0);
        s.push_back(p_s[i]);
      }
    }
  }
  return {-std::log(p[size_t(target)]), distance(o.kind, double(o.beta), t, s)};
}

double total(const LossRowsOptions& o, const Losses& l) {
  const double factor = o.squares_temperature ? double(o.temperature) * double(o.temperature) : 1.0;
  return double(o.gradient_scale) *
         (double(o.alpha) * l.cross_entropy + (1.0 - double(o.alpha)) * factor * l.divergence);
}

// Rows of both sides with gaps between rows, and results.
struct Problem {
  LossRowsOptions options;
  Tail tail;
  int64_t rows, columns, count;
  Tensor student, teacher;  // [rows, columns]
  std::vector<Known> known;
  Tensor top_ids, top_log_probs, targets, cross_entropy, divergence;
  Padded logits, padded_teacher;

  Problem(const LossRowsOptions& o, Tail form, int64_t row_count, int64_t column_count, int64_t known_count,
          uint64_t seed, float range)
      : options(o),
        tail(form),
        rows(row_count),
        columns(column_count),
        count(known_count),
        student(uniform({rows, columns}, seed, -range, range)),
        teacher(uniform({rows, columns}, seed + 1, -range, range)),
        cross_entropy(zeros(DType::f64, {rows})),
        divergence(zeros(DType::f64, {rows})),
        logits(student, 5),
        padded_teacher(teacher, 9) {
    const Random random(seed, RandomPurpose::test_data, 7);
    std::vector<int32_t> chosen;
    for (int64_t r = 0; r < rows; ++r)
      chosen.push_back(int32_t(random.below(uint64_t(o.real_columns), uint64_t(r))));
    targets = indices(chosen);
    fill_known();
  }

  // The likeliest `count` ids.
  void fill_known() {
    known.clear();
    top_ids = zeros(DType::i32, {rows, count});
    top_log_probs = zeros(DType::f32, {rows, count});
    for (int64_t r = 0; r < rows; ++r) {
      const Doubles p = softmax(row_of(teacher, r), double(options.temperature));
      std::vector<int32_t> ids(p.size());
      std::iota(ids.begin(), ids.end(), 0);
      std::stable_sort(ids.begin(), ids.end(),
                       [&](int32_t a, int32_t b) { return p[size_t(a)] > p[size_t(b)]; });
      ids.resize(size_t(count));
      Known row{ids, {}};
      for (int64_t i = 0; i < count; ++i) {
        const float value = float(std::log(p[size_t(ids[size_t(i)])]));
        row.log_probs.push_back(double(value));
        top_ids.mutable_data<int32_t>()[r * count + i] = ids[size_t(i)];
        top_log_probs.mutable_data<float>()[r * count + i] = value;
      }
      known.push_back(row);
    }
  }

  Doubles row_of(const Tensor& x, int64_t row) const {
    Doubles values;
    for (int64_t c = 0; c < options.real_columns; ++c) values.push_back(value_at(x, row, c));
    return values;
  }

  void run(Backend& backend) {
    const bool has_logits = !tail && options.kind != Divergence::none;
    logits = Padded(student, 5);
    backend.training()->loss_rows({.logits = logits.view().mutable_data<float>(),
                                   .teacher = has_logits ? padded_teacher.view().data<float>() : nullptr,
                                   .top_ids = tail ? top_ids.data<int32_t>() : nullptr,
                                   .top_log_probs = tail ? top_log_probs.data<float>() : nullptr,
                                   .targets = targets.data<int32_t>(),
                                   .cross_entropy = cross_entropy.mutable_data<double>(),
                                   .divergence = divergence.mutable_data<double>(),
                                   .rows = rows,
                                   .columns = columns,
                                   .real_columns = options.real_columns,
                                   .stride = logits.view().row_stride(),
                                   .teacher_stride = padded_teacher.view().row_stride(),
                                   .top_count = tail ? count : 0,
                                   .kind = options.kind,
                                   .tail = tail.value_or(TeacherTail::bucket),
                                   .alpha = options.alpha,
                                   .temperature = options.temperature,
                                   .beta = options.beta,
                                   .squares_temperature = options.squares_temperature,
                                   .softcap = options.softcap,
                                   .gradient_scale = options.gradient_scale});
    EXPECT_TRUE(logits.padding_is_intact());
  }

  double gradient(int64_t row, int64_t column) { return value_at(logits.view(), row, column); }
  Losses losses(int64_t row) const {
    return {cross_entropy.data<double>()[row], divergence.data<double>()[row]};
  }
};

class TrainingLossTest : public testing::TestWithParam<std::string> {
 protected:
  Backend& tested() { return tested_backend(GetParam()); }
};
PARE_INSTANTIATE_BACKENDS(TrainingLossTest);

// d total / d (logit before the cap), by central differences in double.
void expect_slopes(Problem& p) {
  constexpr double kStep = 1e-6;
  const LossRowsOptions& o = p.options;
  for (int64_t r = 0; r < p.rows; ++r) {
    const int32_t target = p.targets.data<int32_t>()[r];
    const Doubles teacher = p.row_of(p.teacher, r);
    Doubles student = p.row_of(p.student, r);
    const auto value = [&] { return losses_of(o, p.tail, student, teacher, p.known[size_t(r)], target); };
    const Losses want = value();
    EXPECT_NEAR(p.losses(r).cross_entropy, want.cross_entropy, 2e-6);
    EXPECT_NEAR(p.losses(r).divergence, want.divergence, 2e-6);
    const double cap = double(o.softcap);
    for (int64_t c = 0; c < o.real_columns; ++c) {
      double& z = student[size_t(c)];
      const double kept = z;
      const auto moved = [&](double step) {
        z = cap > 0.0 ? cap * std::tanh(std::atanh(kept / cap) + step / cap) : kept + step;
        return total(o, value());
      };
      const double slope = (moved(kStep) - moved(-kStep)) / (2.0 * kStep);
      z = kept;
      ASSERT_NEAR(p.gradient(r, c), slope, 4e-6) << "row " << r << ", column " << c;
    }
    for (int64_t c = o.real_columns; c < p.columns; ++c) EXPECT_EQ(p.gradient(r, c), 0.0);
  }
}

TEST_P(TrainingLossTest, GradientsAreTheSlopesOfTheLoss) {
  for (const Divergence kind : kKinds) {
    for (const Tail tail : kTails) {
      if (is_infinite(kind, tail)) continue;
      for (const float alpha : {0.0f, 0.3f}) {
        for (const float temperature : {1.0f, 2.0f, 0.7f}) {
          for (const float softcap : {0.0f, 4.0f}) {
            const LossRowsOptions options{.real_columns = 21,
                                          .kind = kind,
                                          .alpha = alpha,
                                          .temperature = temperature,
                                          .beta = 0.4f,
                                          .squares_temperature = alpha == 0.0f,
                                          .softcap = softcap,
                                          .gradient_scale = 0.8f};
            SCOPED_TRACE(describe(options, tail));
            Problem p(options, tail, 3, 24, 5, 31, 3.0f);
            p.run(tested());
            expect_slopes(p);
          }
        }
      }
    }
  }
}

TEST_P(TrainingLossTest, CrossEntropyAloneIsProbabilityLessTarget) {
  for (const float softcap : {0.0f, 6.0f}) {
    Problem p({.real_columns = 37, .kind = Divergence::none, .alpha = 1.0f, .softcap = softcap}, std::nullopt,
              4, 40, 1, 32, 5.0f);
    p.run(tested());
    expect_slopes(p);
  }
}

// Of a gradient that is made of probabilities alone, however small they are.
void expect_rounding_of_softmax(Problem& p, Problem& want, int64_t r) {
  const LossRowsOptions& o = p.options;
  const double scale = double(o.gradient_scale), alpha = double(o.alpha), temperature = double(o.temperature);
  const auto bounds = [&](const Tensor& logits, double t) {
    const Doubles x = p.row_of(logits, r), probability = softmax(x, t);
    const double largest = *std::max_element(x.begin(), x.end());
    Doubles result;
    for (size_t c = 0; c < x.size(); ++c)
      result.push_back(tolerance::softmax(o.real_columns, probability[c], (largest - x[c]) / t, 0.0));
    return result;
  };
  const Doubles plain = bounds(p.student, 1.0), student = bounds(p.student, temperature),
                teacher = bounds(p.teacher, temperature);
  for (size_t c = 0; c < plain.size(); ++c) {
    if (int64_t(c) == p.targets.data<int32_t>()[r]) continue;
    const double bound = scale * (alpha * plain[c] + (1.0 - alpha) * temperature * (student[c] + teacher[c]));
    ASSERT_NEAR(p.gradient(r, int64_t(c)), want.gradient(r, int64_t(c)), bound) << c;
  }
}

// Against the definition at sizes of vocabularies and around pieces of vectors.
TEST_P(TrainingLossTest, AgreesWithTheDefinition) {
  if (GetParam() == "reference") GTEST_SKIP() << "the definition itself";
  for (const int64_t columns : {1, 2, 15, 16, 17, 65, 2047, 2050, 5003}) {
    for (const Divergence kind : kKinds) {
      for (const Tail tail : kTails) {
        if (is_infinite(kind, tail)) continue;
        const LossRowsOptions options{.real_columns = columns,
                                      .kind = kind,
                                      .alpha = 0.25f,
                                      .temperature = columns % 2 == 0 ? 1.0f : 3.0f,
                                      .gradient_scale = 2.0f};
        SCOPED_TRACE(describe(options, tail) + fmt::format(", {} columns", columns));
        Problem p(options, tail, 2, columns, std::min<int64_t>(columns, 8), 33, 12.0f);
        Problem want = p;
        p.run(tested());
        want.run(oracle());
        for (int64_t r = 0; r < p.rows; ++r) {
          EXPECT_NEAR(p.losses(r).cross_entropy, want.losses(r).cross_entropy, 4e-6);
          EXPECT_NEAR(p.losses(r).divergence, want.losses(r).divergence, 1e-5);
          for (int64_t c = 0; c < columns; ++c) ASSERT_NEAR(p.gradient(r, c), want.gradient(r, c), 2e-5) << c;
          if (kind == Divergence::forward_kl && !tail) expect_rounding_of_softmax(p, want, r);
        }
      }
    }
  }
}

// s = t + constant: the same distribution.
TEST_P(TrainingLossTest, AShiftedTeacherCostsNothing) {
  for (const Divergence kind : kKinds) {
    for (const Tail tail : kTails) {
      if (is_infinite(kind, tail) || tail == TeacherTail::zero) continue;
      for (const float temperature : {1.0f, 2.0f}) {
        const LossRowsOptions options{
            .real_columns = 301, .kind = kind, .alpha = 0.0f, .temperature = temperature};
        SCOPED_TRACE(describe(options, tail));
        Problem p(options, tail, 2, 301, 20, 34, 4.0f);
        for (int64_t i = 0; i < p.student.numel(); ++i)
          p.student.mutable_data<float>()[i] = p.teacher.data<float>()[i] + 8.0f;
        p.run(tested());
        for (int64_t r = 0; r < p.rows; ++r) {
          EXPECT_NEAR(p.losses(r).divergence, 0.0, 2e-6);
          for (int64_t c = 0; c < p.columns; ++c) EXPECT_NEAR(p.gradient(r, c), 0.0, 2e-6);
        }
      }
    }
  }
}

TEST_P(TrainingLossTest, GradientsOfARowSumToZero) {
  for (const Divergence kind : kKinds) {
    for (const Tail tail : kTails) {
      if (is_infinite(kind, tail)) continue;
      const LossRowsOptions options{.real_columns = 500, .kind = kind, .alpha = 0.4f, .temperature = 1.5f};
      SCOPED_TRACE(describe(options, tail));
      Problem p(options, tail, 2, 500, 16, 35, 6.0f);
      p.run(tested());
      for (int64_t r = 0; r < p.rows; ++r) {
        double sum = 0.0;
        for (int64_t c = 0; c < p.columns; ++c) sum += p.gradient(r, c);
        EXPECT_NEAR(sum, 0.0, 3e-6);
      }
    }
  }
}

// Merging outcomes never adds to a divergence (data processing), and knowing all ids is knowing the teacher.
TEST_P(TrainingLossTest, ABucketIsAtMostTheWholeDivergence) {
  for (const Divergence kind : kKinds) {
    const LossRowsOptions options{.real_columns = 80, .kind = kind, .alpha = 0.0f, .temperature = 2.0f};
    Problem whole(options, std::nullopt, 3, 80, 1, 36, 5.0f);
    whole.run(tested());
    for (const int64_t count : {1, 8, 40, 79}) {
      Problem bucket(options, TeacherTail::bucket, 3, 80, count, 36, 5.0f);
      bucket.run(tested());
      for (int64_t r = 0; r < 3; ++r) {
        EXPECT_LE(bucket.losses(r).divergence, whole.losses(r).divergence + 1e-5) << count;
        if (count == 79) {
          EXPECT_NEAR(bucket.losses(r).divergence, whole.losses(r).divergence, 1e-5);
          for (int64_t c = 0; c < 80; ++c) EXPECT_NEAR(bucket.gradient(r, c), whole.gradient(r, c), 1e-5);
        }
      }
    }
  }
}

// Two distributions without a common outcome: the bounds of the divergences that have one.
TEST_P(TrainingLossTest, DisjointDistributionsReachTheBounds) {
  for (const auto& [kind, bound] :
       {std::pair{Divergence::jensen_shannon, std::log(2.0)}, {Divergence::total_variation, 1.0}}) {
    Problem p({.real_columns = 64, .kind = kind, .alpha = 0.0f}, std::nullopt, 2, 64, 1, 37, 3.0f);
    for (int64_t c = 0; c < 64; ++c) {  // row 0 disjoint, row 1 as drawn
      p.student.mutable_data<float>()[c] = c < 32 ? 0.0f : -200.0f;
      p.padded_teacher.view().mutable_data<float>()[c] = c < 32 ? -200.0f : 0.0f;
    }
    p.run(tested());
    EXPECT_NEAR(p.losses(0).divergence, bound, 1e-6);
    EXPECT_GT(p.losses(1).divergence, 0.0);
    EXPECT_LT(p.losses(1).divergence, bound);
  }
}

// Two coins, 3/4 against 1/5, in closed form; the uniform distribution costs the logarithm of its size.
TEST_P(TrainingLossTest, ClosedForms) {
  const auto coins = [&](Divergence kind) {
    Problem p({.real_columns = 2, .kind = kind, .alpha = 0.0f}, std::nullopt, 1, 2, 1, 38, 1.0f);
    const float student[] = {0.0f, float(std::log(4.0))}, teacher[] = {float(std::log(3.0)), 0.0f};
    std::copy_n(student, 2, p.student.mutable_data<float>());
    std::copy_n(teacher, 2, p.padded_teacher.view().mutable_data<float>());
    p.run(tested());
    return p.losses(0).divergence;
  };
  EXPECT_NEAR(coins(Divergence::forward_kl), 0.75 * std::log(0.75 / 0.2) + 0.25 * std::log(0.25 / 0.8), 1e-6);
  EXPECT_NEAR(coins(Divergence::reverse_kl), 0.2 * std::log(0.2 / 0.75) + 0.8 * std::log(0.8 / 0.25), 1e-6);
  EXPECT_NEAR(coins(Divergence::total_variation), 0.55, 1e-6);

  Problem p({.real_columns = 50'257, .alpha = 1.0f}, std::nullopt, 1, 50'257, 1, 39, 0.0f);
  p.run(tested());
  EXPECT_NEAR(p.losses(0).cross_entropy, std::log(50'257.0), 1e-6);
  EXPECT_NEAR(p.gradient(0, p.targets.data<int32_t>()[0]), 1.0 / 50'257.0 - 1.0, 1e-6);
}

TEST_P(TrainingLossTest, MaskedRowsCountForNothing) {
  for (const Tail tail : kTails) {
    Problem p({.real_columns = 30, .kind = Divergence::forward_kl, .alpha = 0.5f}, tail, 3, 33, 4, 40, 3.0f);
    p.targets.mutable_data<int32_t>()[1] = -1;
    p.run(tested());
    EXPECT_EQ(p.losses(1).cross_entropy, 0.0);
    EXPECT_EQ(p.losses(1).divergence, 0.0);
    for (int64_t c = 0; c < 33; ++c) EXPECT_EQ(p.gradient(1, c), 0.0);
    EXPECT_NE(p.losses(2).divergence, 0.0);
  }
}

// What stands in columns that do not exist changes nothing.
TEST_P(TrainingLossTest, ColumnsBeyondTheRealOnesDoNotExist) {
  for (const Tail tail : kTails) {
    Problem p({.real_columns = 29, .kind = Divergence::forward_kl, .alpha = 0.5f}, tail, 2, 40, 4, 41, 3.0f),
        same = p;
    for (int64_t r = 0; r < 2; ++r) {
      for (int64_t c = 29; c < 40; ++c) {
        p.student.mutable_data<float>()[r * 40 + c] = 1e30f;
        p.padded_teacher.view().mutable_data<float>()[r * p.padded_teacher.view().row_stride() + c] =
            std::numeric_limits<float>::quiet_NaN();
      }
    }
    p.run(tested());
    same.run(tested());
    EXPECT_TRUE(same_bits(p.logits.view(), same.logits.view()));
    EXPECT_EQ(p.losses(1).divergence, same.losses(1).divergence);
  }
}

// Logits far apart neither overflow nor give NaN; a NaN is not lost.
TEST_P(TrainingLossTest, ExtremeLogits) {
  for (const Divergence kind : kKinds) {
    Problem p({.real_columns = 40, .kind = kind, .alpha = 0.5f}, std::nullopt, 2, 40, 1, 42, 80.0f);
    p.run(tested());
    for (int64_t r = 0; r < 2; ++r) {
      EXPECT_TRUE(std::isfinite(p.losses(r).cross_entropy) && std::isfinite(p.losses(r).divergence))
          << int(kind);
      for (int64_t c = 0; c < 40; ++c)
        EXPECT_TRUE(std::isfinite(p.gradient(r, c))) << int(kind) << ", column " << c;
    }
    p.student.mutable_data<float>()[40 + 3] = std::numeric_limits<float>::quiet_NaN();
    p.run(tested());
    EXPECT_TRUE(std::isfinite(p.losses(0).cross_entropy));
    EXPECT_TRUE(std::isnan(p.losses(1).cross_entropy));
  }
}

TEST_P(TrainingLossTest, SameBytesForAnyNumberOfThreads) {
  for (const Tail tail : {Tail{}, Tail{TeacherTail::bucket}}) {
    const auto run = [&](int threads) {
      set_thread_count(threads);
      Problem p(
          {.real_columns = 3000, .kind = Divergence::jensen_shannon, .alpha = 0.5f, .temperature = 2.0f},
          tail, 37, 3000, 16, 43, 9.0f);
      p.run(tested());
      return p;
    };
    Problem one = run(1), three = run(3);
    set_thread_count(0);
    EXPECT_TRUE(same_bits(one.logits.view(), three.logits.view()));
    EXPECT_TRUE(same_bits(one.divergence, three.divergence));
    EXPECT_TRUE(same_bits(one.cross_entropy, three.cross_entropy));
  }
}

template <typename T>
Tensor on(Device device, const Tensor& x) {
  Tensor copy = *Tensor::allocate(x.dtype(), x.shape(), device);
  std::copy_n(x.data<T>(), x.numel(), copy.mutable_data<T>());
  return copy;
}

TEST(TrainingLossOpsTest, HandOverWhatTheyAreGiven) {
  install_backend(make_reference_backend());
  install_backend(make_cpu_backend());
  for (const Tail tail : kTails) {
    const LossRowsOptions options{.real_columns = 18,
                                  .kind = Divergence::forward_kl,
                                  .tail = tail.value_or(TeacherTail::bucket),
                                  .alpha = 0.3f,
                                  .temperature = 2.0f,
                                  .squares_temperature = false,
                                  .softcap = 9.0f,
                                  .gradient_scale = 0.1f};
    Problem want(options, tail, 3, 20, 4, 44, 3.0f);
    want.run(oracle());
    for (const Device device : {Device::reference(), Device::cpu()}) {
      Tensor logits = on<float>(device, want.student), cross_entropy = on<double>(device, want.cross_entropy);
      Tensor divergence = on<double>(device, want.divergence);
      const Tensor targets = on<int32_t>(device, want.targets);
      Tensor teacher, ids, log_probs;
      if (tail) {
        ids = on<int32_t>(device, want.top_ids);
        log_probs = on<float>(device, want.top_log_probs);
      } else {
        teacher = on<float>(device, want.teacher);
      }
      ops::loss_rows(logits, teacher, ids, log_probs, targets, options, cross_entropy, divergence);
      for (int64_t r = 0; r < 3; ++r) {
        EXPECT_NEAR(cross_entropy.data<double>()[r], want.losses(r).cross_entropy, 2e-6);
        EXPECT_NEAR(divergence.data<double>()[r], want.losses(r).divergence, 2e-6);
        for (int64_t c = 0; c < 20; ++c) EXPECT_NEAR(value_at(logits, r, c), want.gradient(r, c), 2e-6);
      }
    }
  }
}

}  // namespace
}  // namespace pare::test
