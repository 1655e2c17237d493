// loss_rows against a teacher of logits, and without one: one block per row. The row is read once for the
// largest logit and the sums, once more for losses and the gradient in its place (divergences but the forward
// KL need a sum over their slopes first: a third time). Every pass goes the other way than the one before:
// what was read last is still in the second-level cache.
//   g = A (p_s - 1_y) + B d,   A = alpha scale,   B = (1 - alpha) scale (temperature or its inverse)
// d is p_s - p_t for the forward KL, else slope - p_s sum(slope) of the terms below.
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/training_loss.h"
#include "engine/backends/cuda/training_loss_known.h"

namespace pare::cuda {

LossFactors loss_factors(const LossRowsArgs& a) {
  const double temperature = double(a.temperature), scale = double(a.gradient_scale);
  const double factor = a.squares_temperature ? temperature : 1.0 / temperature;
  return {.plain = float(double(a.alpha) * scale),
          .tempered = a.kind != Divergence::none ? float((1.0 - double(a.alpha)) * factor * scale) : 0.0f,
          .inverse_temperature = 1.0f / a.temperature,
          .inverse_cap = a.softcap > 0.0f ? 1.0f / a.softcap : 0.0f};
}

namespace {

// One outcome's part of a divergence, and p_s times its derivative by p_s.
struct Term {
  float value, slope;
};

// log_ratio = log p_s - log p_t
template <Divergence kKind>
__device__ __forceinline__ Term loss_term(float p_t, float p_s, float log_ratio, float beta) {
  if constexpr (kKind == Divergence::reverse_kl) {
    const float value = p_s == 0.0f ? 0.0f : p_s * log_ratio;
    return {value, value};
  } else if constexpr (kKind == Divergence::jensen_shannon) {
    const float rest = 1.0f - beta, mean = fmaf(beta, p_t, rest * p_s);
    // Below the smallest normal number there is nothing to add; 0 / 0 is not above it either.
    const float share_s = p_s / mean, share_t = p_t / mean;
    const float student = share_s > 1.2e-38f ? rest * p_s * logf(share_s) : 0.0f;
    const float teacher = share_t > 1.2e-38f ? p_t * logf(share_t) : 0.0f;
    return {fmaf(beta, teacher, student), student};
  } else {
    const float difference = p_s - p_t, size = fabsf(difference);
    const float sign = difference > 0.0f ? 0.5f : -0.5f;
    return {0.5f * size, size > kSameProbability * p_t ? sign * p_s : 0.0f};
  }
}

// Sides of a row, and the distance of their logarithms: log p_s - log p_t = (x - y) / temperature + offset.
struct Sides {
  Probability plain, student, teacher;
  double offset;
  bool has_plain, is_tempered;

  __device__ __forceinline__ Sides(const LossFactors& f, const RowSums& s, const RowSums& t)
      : plain(plain_probability(s)),
        student(tempered_probability(s, f.inverse_temperature)),
        teacher(tempered_probability(t, f.inverse_temperature)),
        offset((double(t.largest) - double(s.largest)) * double(f.inverse_temperature) + log(t.tempered) -
               log(s.tempered)),
        has_plain(f.plain != 0.0f),
        is_tempered(f.inverse_temperature != 1.0f) {}
  // A p_s at temperature 1, given p_s at the temperature
  __device__ __forceinline__ float of_plain(float x, float p_s, const LossFactors& f) const {
    if (!has_plain) return 0.0f;
    return f.plain * (is_tempered ? plain.of(x) : p_s);
  }
};

// Without a teacher.
__device__ void student_gradient(float* z, const LossColumns& columns, const RowSums& sums,
                                 const LossFactors& f) {
  const Probability plain = plain_probability(sums);
  for (int64_t group = columns.groups() - 1 - threadIdx.x; group >= 0; group -= blockDim.x) {
    float x[4];
    columns.load(z, group, true, x);
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = capped(f.plain * plain.of(x[j]), x[j], f);
    columns.store(z, group, x);
  }
}

// KL = sum p_t ((y - x) / temperature - offset), with the offset's rounding taken out again: sum p_t = 1.
__device__ double forward_kl(float* z, const float* t, const LossColumns& columns, bool is_parallel,
                             const Sides& sides, const LossFactors& f) {
  const float shift = float(sides.offset);
  double sum = 0.0;
#pragma unroll 2
  for (int64_t group = columns.groups() - 1 - threadIdx.x; group >= 0; group -= blockDim.x) {
    float x[4], y[4], value = 0.0f;
    columns.load(z, group, true, x);
    columns.load(t, group, is_parallel, y);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float p_t = sides.teacher.of(y[j]), p_s = sides.student.of(x[j]);
      // p_t = 0 contributes nothing, whatever p_s is
      value += p_t == 0.0f ? 0.0f : p_t * ((y[j] - x[j]) * f.inverse_temperature - shift);
      x[j] = capped(sides.of_plain(x[j], p_s, f) + f.tempered * (p_s - p_t), x[j], f);
    }
    sum += double(value);
    columns.store(z, group, x);
  }
  return block_sum(sum) - (sides.offset - double(shift));
}

template <Divergence kKind>
__device__ double other_divergence(float* z, const float* t, const LossColumns& columns, bool is_parallel,
                                   const Sides& sides, const LossFactors& f, float beta) {
  const float shift = float(sides.offset);
  const auto term = [&](float x, float y, float p_s) {
    return loss_term<kKind>(sides.teacher.of(y), p_s, fmaf(x - y, f.inverse_temperature, shift), beta);
  };
  double values = 0.0, slopes = 0.0;
  for (int64_t group = columns.groups() - 1 - threadIdx.x; group >= 0; group -= blockDim.x) {
    float x[4], y[4], value = 0.0f, slope = 0.0f;
    columns.load(z, group, true, x);
    columns.load(t, group, is_parallel, y);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Term part = term(x[j], y[j], sides.student.of(x[j]));
      value += part.value;
      slope += part.slope;
    }
    values += double(value);
    slopes += double(slope);
  }
  values = block_sum(values);
  const float mean = float(block_sum(slopes));
  for (int64_t group = threadIdx.x; group < columns.groups(); group += blockDim.x) {
    float x[4], y[4];
    columns.load(z, group, true, x);
    columns.load(t, group, is_parallel, y);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float p_s = sides.student.of(x[j]);
      const float gradient = f.tempered * (term(x[j], y[j], p_s).slope - p_s * mean);
      x[j] = capped(sides.of_plain(x[j], p_s, f) + gradient, x[j], f);
    }
    columns.store(z, group, x);
  }
  return values;
}

template <Divergence kKind>
__global__ void __launch_bounds__(kLossThreads, 2) loss_rows_kernel(LossRowsArgs a, LossFactors f) {
  const int64_t row = blockIdx.x;
  if (is_left_out(a, row)) return;
  float* z = a.logits + row * a.stride;
  const int32_t target = a.targets[row];
  const float chosen = z[target];
  const LossColumns columns(z, a.real_columns);
  const RowSums sums = row_sums(z, a.real_columns, f.inverse_temperature, true, kKind != Divergence::none);
  double divergence = 0.0;
  if constexpr (kKind == Divergence::none) {
    student_gradient(z, columns, sums, f);
  } else {
    const float* t = a.teacher + row * a.teacher_stride;
    const bool is_parallel = LossColumns(t, a.real_columns).phase == columns.phase;
    const Sides sides(f, sums, row_sums(t, a.real_columns, f.inverse_temperature, false, true));
    if constexpr (kKind == Divergence::forward_kl) {
      divergence = forward_kl(z, t, columns, is_parallel, sides, f);
    } else {
      divergence = other_divergence<kKind>(z, t, columns, is_parallel, sides, f, a.beta);
    }
  }
  clear_columns(z, a.real_columns, a.columns);
  __syncthreads();  // the target's column is written
  if (threadIdx.x != 0) return;
  z[target] -= capped(f.plain, chosen, f);
  a.cross_entropy[row] = double(sums.largest) + log(sums.plain) - double(chosen);
  a.divergence[row] = divergence;
}

}  // namespace

void CudaTraining::loss_rows(const LossRowsArgs& a) {
  if (a.top_ids != nullptr && a.kind != Divergence::none) return loss_rows_of_known_ids(context_, a);
  const LossFactors factors = loss_factors(a);
  const LaunchShape shape{.grid = blocks_for(a.rows, 1), .block = dim3(unsigned(loss_threads(a.columns)))};
  switch (a.kind) {
    case Divergence::none:
      context_.launch("loss_rows", loss_rows_kernel<Divergence::none>, shape, a, factors);
      break;
    case Divergence::forward_kl:
      context_.launch("loss_rows", loss_rows_kernel<Divergence::forward_kl>, shape, a, factors);
      break;
    case Divergence::reverse_kl:
      context_.launch("loss_rows", loss_rows_kernel<Divergence::reverse_kl>, shape, a, factors);
      break;
    case Divergence::jensen_shannon:
      context_.launch("loss_rows", loss_rows_kernel<Divergence::jensen_shannon>, shape, a, factors);
      break;
    case Divergence::total_variation:
      context_.launch("loss_rows", loss_rows_kernel<Divergence::total_variation>, shape, a, factors);
      break;
  }
}

}  // namespace pare::cuda
