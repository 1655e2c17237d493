// engine/backends/cpu/loss_known_body.h: the loss of rows against a teacher of which k ids are known, and
// loss_rows.
//
// Terms of the k ids and of the tail are scalar and in double; every other column gets one factor of p_s, so
// that a row costs no more than its cross-entropy. Source: algorithms.md 7.3.
#pragma once

#include "engine/backends/cpu/attention_plan.h"

namespace pare::cpu::PARE_ISA_NAMESPACE {

constexpr double kSmallestTail = 1e-8;  // of a bucket

struct ScalarTerm {
  double value, slope;
};

// As the reference: logarithms of both probabilities.
static ScalarTerm known_term(const LossRowsArgs& a, double log_teacher, double log_student) {
  const double teacher = ::exp(log_teacher), student = ::exp(log_student), beta = double(a.beta);
  switch (a.kind) {
    case Divergence::none:
      break;
    case Divergence::forward_kl:
      return {teacher > 0.0 ? teacher * (log_teacher - log_student) : 0.0, -teacher};
    case Divergence::reverse_kl: {
      const double value = student > 0.0 ? student * (log_student - log_teacher) : 0.0;
      return {value, value};
    }
    case Divergence::jensen_shannon: {
      const double log_mean = ::log(beta * teacher + (1.0 - beta) * student);
      const double of_student = student > 0.0 ? student * (log_student - log_mean) : 0.0;
      const double of_teacher = teacher > 0.0 ? teacher * (log_teacher - log_mean) : 0.0;
      return {beta * of_teacher + (1.0 - beta) * of_student, (1.0 - beta) * of_student};
    }
    case Divergence::total_variation: {
      const double difference = student - teacher, size = ::fabs(difference);
      const bool is_apart = size > double(kSameProbability) * teacher;
      return {0.5 * size, is_apart ? (difference > 0.0 ? 0.5 * student : -0.5 * student) : 0.0};
    }
  }
  return {0.0, 0.0};
}

// The row's k ids: what both sides' logarithms are lowered by, and the sums over all outcomes.
struct KnownIds {
  double student_sum;                           // log-sum-exp at the temperature
  double student_top = 0.0, teacher_top = 0.0;  // where the k ids are renormalised
  double value = 0.0, slope = 0.0;
  double outside = 0.0;  // the gradient of other columns, over p_s
};

PARE_INLINE ScalarTerm term_of_id(const LossRowsArgs& a, const KnownIds& known, float z, float log_teacher) {
  const double log_student = double(z) / double(a.temperature) - known.student_sum - known.student_top;
  return known_term(a, double(log_teacher) - known.teacher_top, log_student);
}

static KnownIds look_at_ids(const LossRowsArgs& a, const RowSums& sums, const float* z,
                            const float* log_probs) {
  KnownIds known{.student_sum = double(sums.largest) / double(a.temperature) + ::log(sums.tempered)};
  double student = 0.0, teacher = 0.0;
  for (int64_t i = 0; i < a.top_count; ++i) {
    student += ::exp(double(z[i]) / double(a.temperature) - known.student_sum);
    teacher += ::exp(double(log_probs[i]));
  }
  if (a.tail != TeacherTail::bucket) known.teacher_top = ::log(teacher);
  if (a.tail == TeacherTail::topk) known.student_top = ::log(student);
  for (int64_t i = 0; i < a.top_count; ++i) {
    const ScalarTerm part = term_of_id(a, known, z[i], log_probs[i]);
    known.value += part.value;
    known.slope += part.slope;
  }
  if (a.tail == TeacherTail::topk) return known;

  // The rest: one more outcome, or outcomes that the teacher never chooses, whose terms are all the same
  // multiple of p_s.
  const auto bounded = [](double x) { return x < kSmallestTail ? kSmallestTail : (x > 1.0 ? 1.0 : x); };
  double share = 1.0 - student, slope = 0.0;
  if (a.tail == TeacherTail::bucket) {
    share = bounded(share);
    const ScalarTerm rest = known_term(a, ::log(bounded(1.0 - teacher)), ::log(share));
    known.value += rest.value;
    slope = rest.slope / share;
  } else {
    if (share < 0.0) share = 0.0;
    const ScalarTerm unit = known_term(a, -INFINITY, 0.0);
    known.value += unit.value * share;
    slope = unit.slope;
  }
  known.slope += slope * share;
  known.outside = slope - known.slope;
  return known;
}

// Gradient of everything but the target's 1, and value.
static double divergence_of_ids(const LossRowsArgs& a, const RowSums& sums, const LossFactors& f,
                                const int32_t* ids, const float* log_probs, float* z) {
  float* kept = attention_scratch();  // the logits of the k ids, which the others overwrite
  for (int64_t i = 0; i < a.top_count; ++i) kept[i] = z[ids[i]];
  const KnownIds known = look_at_ids(a, sums, kept, log_probs);
  student_gradient(a, sums, f, float(double(f.tempered) * known.outside), z);
  const double inverse_temperature = 1.0 / double(a.temperature), plain_sum = ::log(sums.plain);
  for (int64_t i = 0; i < a.top_count; ++i) {
    const double x = double(kept[i]);
    const double plain = ::exp(x - double(sums.largest) - plain_sum);
    const double share = ::exp(x * inverse_temperature - known.student_sum - known.student_top);
    const double gradient = term_of_id(a, known, kept[i], log_probs[i]).slope - share * known.slope;
    z[ids[i]] = f.capped(float(double(f.plain) * plain + double(f.tempered) * gradient), kept[i], a.softcap);
  }
  return known.value;
}

static void loss_rows(const LossRowsArgs& a, int64_t begin, int64_t end) {
  const LossFactors f = loss_factors(a);
  for (int64_t r = begin; r < end; ++r) {
    float* z = a.logits + r * a.stride;
    const int32_t target = a.targets[r];
    a.cross_entropy[r] = a.divergence[r] = 0.0;
    if (target < 0) {
      map(z, z, a.columns, [](Vec) { return zero(); });
      continue;
    }
    const bool has_divergence = a.kind != Divergence::none;
    const float chosen = z[target];
    const RowSums sums = row_sums(z, a.real_columns, a.temperature, true, has_divergence);
    a.cross_entropy[r] = double(sums.largest) + ::log(sums.plain) - double(chosen);
    if (!has_divergence) {
      student_gradient(a, sums, f, 0.0f, z);
    } else if (a.teacher != nullptr) {
      a.divergence[r] = divergence_of_logits(a, sums, f, a.teacher + r * a.teacher_stride, z);
    } else {
      a.divergence[r] =
          divergence_of_ids(a, sums, f, a.top_ids + r * a.top_count, a.top_log_probs + r * a.top_count, z);
    }
    z[target] -= f.capped(f.plain, chosen, a.softcap);
    map(z + a.real_columns, z + a.real_columns, a.columns - a.real_columns, [](Vec) { return zero(); });
  }
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
