#include <algorithm>
#include <cmath>

#include "engine/backends/reference/training_class.h"
#include "engine/core/parallel.h"

namespace pare::reference {
namespace {

constexpr double kSmallestTail = 1e-8;  // of a bucket: algorithms.md 7.3

// One outcome's part of a divergence, and p_s times the derivative by p_s (less what is the same for all
// outcomes).
struct Term {
  double value, slope;
};

Term term(const LossRowsArgs& a, double log_teacher, double log_student) {
  const double teacher = std::exp(log_teacher), student = std::exp(log_student);
  const double beta = double(a.beta);
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
      const double log_mean = std::log(beta * teacher + (1.0 - beta) * student);
      const double of_student = student > 0.0 ? student * (log_student - log_mean) : 0.0;
      const double of_teacher = teacher > 0.0 ? teacher * (log_teacher - log_mean) : 0.0;
      return {beta * of_teacher + (1.0 - beta) * of_student, (1.0 - beta) * of_student};
    }
    case Divergence::total_variation: {
      const double size = std::abs(student - teacher);
      const double sign = size > double(kSameProbability) * teacher ? (student > teacher ? 1.0 : -1.0) : 0.0;
      return {0.5 * size, 0.5 * student * sign};
    }
  }
  return {0.0, 0.0};
}

double log_sum_exp(const float* x, int64_t columns, double temperature) {
  const double largest = double(*std::max_element(x, x + columns));
  double sum = 0.0;
  for (int64_t c = 0; c < columns; ++c) sum += std::exp((double(x[c]) - largest) / temperature);
  return largest / temperature + std::log(sum);
}

// One row: probabilities of both sides as the divergence sees them.
class LossRow {
 public:
  LossRow(const LossRowsArgs& args, int64_t row)
      : a_(args),
        logits_(args.logits + row * args.stride),
        teacher_(args.teacher != nullptr ? args.teacher + row * args.teacher_stride : nullptr),
        ids_(args.top_ids != nullptr ? args.top_ids + row * args.top_count : nullptr),
        log_probs_(args.top_ids != nullptr ? args.top_log_probs + row * args.top_count : nullptr),
        temperature_(double(args.temperature)) {
    student_sum_ = log_sum_exp(logits_, a_.real_columns, temperature_);
    if (teacher_ != nullptr) teacher_sum_ = log_sum_exp(teacher_, a_.real_columns, temperature_);
    if (ids_ != nullptr) look_at_top();
    add_up();
  }

  double divergence() const { return total_.value; }

  // d divergence / d (logit / temperature) of a column whose logit still stands in its place
  double gradient(int64_t column) const {
    const double student = std::exp(log_student(column));
    if (ids_ == nullptr)
      return term(a_, log_teacher(column), log_student(column)).slope - student * total_.slope;
    const int64_t index = std::find(ids_, ids_ + a_.top_count, column) - ids_;
    if (index < a_.top_count) {
      const double share = std::exp(log_student(column) - student_top_);
      return top_term(index).slope - share * total_.slope;
    }
    switch (a_.tail) {
      case TeacherTail::bucket:
        return student * (tail_.slope / student_tail_ - total_.slope);
      case TeacherTail::zero:
        return term(a_, -INFINITY, log_student(column)).slope - student * total_.slope;
      case TeacherTail::topk:
        break;
    }
    return 0.0;
  }

 private:
  double log_student(int64_t column) const { return double(logits_[column]) / temperature_ - student_sum_; }
  double log_teacher(int64_t column) const { return double(teacher_[column]) / temperature_ - teacher_sum_; }
  Term top_term(int64_t i) const {
    return term(a_, double(log_probs_[i]) - teacher_top_, log_student(ids_[i]) - student_top_);
  }

  // The tail of a bucket, or what the probabilities of the k ids are divided by.
  void look_at_top() {
    double student = 0.0, teacher = 0.0;
    for (int64_t i = 0; i < a_.top_count; ++i) {
      student += std::exp(log_student(ids_[i]));
      teacher += std::exp(double(log_probs_[i]));
    }
    if (a_.tail == TeacherTail::bucket) {
      student_tail_ = std::clamp(1.0 - student, kSmallestTail, 1.0);
      tail_ = term(a_, std::log(std::clamp(1.0 - teacher, kSmallestTail, 1.0)), std::log(student_tail_));
      return;
    }
    teacher_top_ = std::log(teacher);
    if (a_.tail == TeacherTail::topk) student_top_ = std::log(student);
  }

  void add(const Term& part) {
    total_.value += part.value;
    total_.slope += part.slope;
  }
  void add_up() {
    if (ids_ == nullptr) {
      for (int64_t c = 0; c < a_.real_columns; ++c) add(term(a_, log_teacher(c), log_student(c)));
      return;
    }
    for (int64_t i = 0; i < a_.top_count; ++i) add(top_term(i));
    if (a_.tail == TeacherTail::bucket) add(tail_);
    if (a_.tail != TeacherTail::zero) return;
    for (int64_t c = 0; c < a_.real_columns; ++c) {
      const bool is_known = std::find(ids_, ids_ + a_.top_count, c) != ids_ + a_.top_count;
      if (!is_known) add(term(a_, -INFINITY, log_student(c)));
    }
  }

  const LossRowsArgs& a_;
  const float* logits_;
  const float* teacher_;
  const int32_t* ids_;
  const float* log_probs_;
  double temperature_;
  double student_sum_ = 0.0, teacher_sum_ = 0.0;  // log-sum-exp at the temperature
  double student_top_ = 0.0, teacher_top_ = 0.0;  // log of what the k ids have, where they are renormalised
  double student_tail_ = 1.0;
  Term tail_{0.0, 0.0};   // of the bucket
  Term total_{0.0, 0.0};  // over all outcomes
};

// d (cap tanh(x / cap)) / dx of the capped value z
double cap_slope(double z, double cap) {
  return cap > 0.0 ? 1.0 - (z / cap) * (z / cap) : 1.0;
}

void loss_row(const LossRowsArgs& a, int64_t row) {
  float* logits = a.logits + row * a.stride;
  const int32_t target = a.targets[row];
  a.cross_entropy[row] = a.divergence[row] = 0.0;
  if (target < 0) {
    std::fill_n(logits, a.columns, 0.0f);
    return;
  }

  const double sum = log_sum_exp(logits, a.real_columns, 1.0);
  a.cross_entropy[row] = sum - double(logits[target]);
  const bool has_divergence = a.kind != Divergence::none;
  const double alpha = double(a.alpha), temperature = double(a.temperature);
  const double factor = (1.0 - alpha) * (a.squares_temperature ? temperature : 1.0 / temperature);
  const auto write = [&](const auto& divergence_gradient) {
    for (int64_t c = 0; c < a.real_columns; ++c) {
      const double z = double(logits[c]);
      const double of_target = std::exp(z - sum) - double(c == target);
      const double gradient = alpha * of_target + divergence_gradient(c);
      logits[c] = float(gradient * double(a.gradient_scale) * cap_slope(z, double(a.softcap)));
    }
    std::fill(logits + a.real_columns, logits + a.columns, 0.0f);
  };
  if (!has_divergence) return write([](int64_t) { return 0.0; });
  const LossRow distance(a, row);
  a.divergence[row] = distance.divergence();
  write([&](int64_t c) { return factor * distance.gradient(c); });
}

}  // namespace

void ReferenceTraining::loss_rows(const LossRowsArgs& a) {
  parallel_for(a.rows, [&](int64_t row) { loss_row(a, row); });
}

}  // namespace pare::reference
