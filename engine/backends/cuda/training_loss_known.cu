// loss_rows against a teacher of which k ids are known. Terms of the k ids and of the tail are in double;
// every other column gets one factor of p_s, so that a row costs no more than its cross-entropy. The
// gradients of the k ids wait in scratch memory until the others are written. Source: algorithms.md 7.3.
#include "engine/backends/cuda/training_loss_known.h"

#include <algorithm>

#include "engine/backends/cuda/training_loss.h"

namespace pare::cuda {
namespace {

constexpr double kSmallestTail = 1e-8;  // of a bucket
constexpr int kThreads = 256;           // fewer than of the other kernels: doubles take two registers each

// One outcome's part of a divergence, and p_s times its derivative by p_s.
struct Term {
  double value, slope;
};

__device__ Term known_term(const LossRowsArgs& a, double log_teacher, double log_student) {
  const double teacher = exp(log_teacher), student = exp(log_student), beta = double(a.beta);
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
      const double log_mean = log(beta * teacher + (1.0 - beta) * student);
      const double of_student = student > 0.0 ? student * (log_student - log_mean) : 0.0;
      const double of_teacher = teacher > 0.0 ? teacher * (log_teacher - log_mean) : 0.0;
      return {beta * of_teacher + (1.0 - beta) * of_student, (1.0 - beta) * of_student};
    }
    case Divergence::total_variation: {
      const double difference = student - teacher, size = fabs(difference);
      const bool is_apart = size > double(kSameProbability) * teacher;
      return {0.5 * size, is_apart ? (difference > 0.0 ? 0.5 * student : -0.5 * student) : 0.0};
    }
  }
  return {0.0, 0.0};
}

__device__ __forceinline__ double bounded_tail(double x) {
  return x < kSmallestTail ? kSmallestTail : (x > 1.0 ? 1.0 : x);
}

// What both sides' logarithms are lowered by, and the sums over all outcomes. The same in every thread.
struct KnownIds {
  double student_sum;               // log-sum-exp at the temperature
  double student_top, teacher_top;  // where the k ids are renormalised
  double value, slope;
  double outside;  // the gradient of other columns, over p_s
};

__device__ KnownIds look_at_ids(const LossRowsArgs& a, const RowSums& sums, const float* z,
                                const int32_t* ids, const float* log_probs) {
  const double temperature = double(a.temperature);
  KnownIds known{double(sums.largest) / temperature + log(sums.tempered), 0.0, 0.0, 0.0, 0.0, 0.0};
  double student = 0.0, teacher = 0.0;
  for (int64_t i = threadIdx.x; i < a.top_count; i += blockDim.x) {
    student += exp(double(z[ids[i]]) / temperature - known.student_sum);
    teacher += exp(double(log_probs[i]));
  }
  student = block_sum(student);
  teacher = block_sum(teacher);
  if (a.tail != TeacherTail::bucket) known.teacher_top = log(teacher);
  if (a.tail == TeacherTail::topk) known.student_top = log(student);
  double value = 0.0, slope = 0.0;
  for (int64_t i = threadIdx.x; i < a.top_count; i += blockDim.x) {
    const double log_student = double(z[ids[i]]) / temperature - known.student_sum - known.student_top;
    const Term part = known_term(a, double(log_probs[i]) - known.teacher_top, log_student);
    value += part.value;
    slope += part.slope;
  }
  known.value = block_sum(value);
  known.slope = block_sum(slope);
  if (a.tail == TeacherTail::topk) return known;

  // The rest: one more outcome, or outcomes that the teacher never chooses, whose terms are all the same
  // multiple of p_s.
  double share = 1.0 - student, rest_slope = 0.0;
  if (a.tail == TeacherTail::bucket) {
    share = bounded_tail(share);
    const Term rest = known_term(a, log(bounded_tail(1.0 - teacher)), log(share));
    known.value += rest.value;
    rest_slope = rest.slope / share;
  } else {
    if (share < 0.0) share = 0.0;
    const Term unit = known_term(a, -double(INFINITY), 0.0);
    known.value += unit.value * share;
    rest_slope = unit.slope;
  }
  known.slope += rest_slope * share;
  known.outside = rest_slope - known.slope;
  return known;
}

__device__ void known_row(const LossRowsArgs& a, const LossFactors& f, int64_t row, float* gradients) {
  float* z = a.logits + row * a.stride;
  const int32_t* ids = a.top_ids + row * a.top_count;
  const float* log_probs = a.top_log_probs + row * a.top_count;
  const int32_t target = a.targets[row];
  const float chosen = z[target];
  const RowSums sums = row_sums(z, a.real_columns, f.inverse_temperature, true, true);
  const KnownIds known = look_at_ids(a, sums, z, ids, log_probs);
  const double plain_sum = log(sums.plain), temperature = double(a.temperature);
  for (int64_t i = threadIdx.x; i < a.top_count; i += blockDim.x) {
    const float x = z[ids[i]];
    const double plain = exp(double(x) - double(sums.largest) - plain_sum);
    const double log_student = double(x) / temperature - known.student_sum - known.student_top;
    const Term part = known_term(a, double(log_probs[i]) - known.teacher_top, log_student);
    const double gradient = part.slope - exp(log_student) * known.slope;
    gradients[i] = capped(float(double(f.plain) * plain + double(f.tempered) * gradient), x, f);
  }
  __syncthreads();  // the logits of the k ids are read

  const LossColumns columns(z, a.real_columns);
  const Probability plain = plain_probability(sums),
                    tempered = tempered_probability(sums, f.inverse_temperature);
  const float outside = float(double(f.tempered) * known.outside);
  const bool is_one = outside == 0.0f || f.inverse_temperature == 1.0f;
  const float factor = is_one ? f.plain + outside : f.plain;
  for (int64_t group = columns.groups() - 1 - threadIdx.x; group >= 0; group -= blockDim.x) {
    float x[4];
    columns.load(z, group, true, x);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float of_plain = factor * plain.of(x[j]);
      x[j] = capped(is_one ? of_plain : fmaf(outside, tempered.of(x[j]), of_plain), x[j], f);
    }
    columns.store(z, group, x);
  }
  clear_columns(z, a.real_columns, a.columns);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < a.top_count; i += blockDim.x) z[ids[i]] = gradients[i];
  __syncthreads();
  if (threadIdx.x == 0) {
    z[target] -= capped(f.plain, chosen, f);
    a.cross_entropy[row] = double(sums.largest) + plain_sum - double(chosen);
    a.divergence[row] = known.value;
  }
  __syncthreads();  // the next row of this block uses the same gradients
}

__global__ void __launch_bounds__(kThreads, 2)
    loss_known_kernel(LossRowsArgs a, LossFactors f, float* scratch) {
  float* gradients = scratch + blockIdx.x * a.top_count;
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    if (!is_left_out(a, row)) known_row(a, f, row, gradients);
  }
}

}  // namespace

// As many blocks as run at a time, which bounds the scratch memory for any k.
void loss_rows_of_known_ids(Context& context, const LossRowsArgs& a) {
  const int64_t blocks = std::min<int64_t>(a.rows, 2 * context.multiprocessors());
  float* scratch = context.scratch_of<float>(blocks * a.top_count);
  if (scratch == nullptr) return;  // noted
  context.launch(
      "loss_rows_known", loss_known_kernel,
      {.grid = dim3(unsigned(blocks)), .block = dim3(unsigned(std::min(kThreads, loss_threads(a.columns))))},
      a, loss_factors(a), scratch);
}

}  // namespace pare::cuda
