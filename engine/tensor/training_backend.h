// engine/tensor/training_backend.h: the operations of training on one device: gradients, losses, optimizers.
//
// The rules of backend.h hold here too. Of every gradient:
//   * the name is that of the forward with `_backward`; the gradient of `x` is `dx`;
//   * gradients of parameters are added to (`+=`), those of activations are overwritten unless `accumulate`
//   says that
//     they are added to;
//   * sums over tokens are made in an order that depends on the shape alone.
// Each has a scalar definition in double in engine/backends/reference/training_*.cpp.
#pragma once

#include <cstdint>
#include <span>

#include "engine/tensor/activation_quant.h"
#include "engine/tensor/backend.h"

namespace pare {

// dx[m, k] (+)= sum_n dout[m, n] * weight[n, k]
struct MatmulInputBackwardArgs {
  const float* dout;   // [m, n]
  const void* weight;  // [n, k], contiguous
  DType weight_dtype;  // f32, bf16 or f16
  float* dx;           // [m, k]; must not alias dout
  int64_t m, n, k, dout_stride, dx_stride;
  bool accumulate;
  void* workspace;  // matmul_input_backward_workspace_bytes(m, n, k) bytes, 64-byte aligned
};

// dweight[n, k] += sum_m dout[m, n] * x[m, k];  dbias[n] += sum_m dout[m, n]
struct MatmulWeightBackwardArgs {
  const float* x;     // [m, k]
  const float* dout;  // [m, n]
  float* dweight;     // [n, k], contiguous
  float* dbias;       // [n] or null
  int64_t m, n, k, x_stride, dout_stride;
  void* workspace;  // matmul_weight_backward_workspace_bytes(m, n, k) bytes, 64-byte aligned
};

// Of RmsNormArgs. With r = 1 / sqrt(mean(x^2) + eps) and u = dout * g:
//   dx (+)= r u - x r^3 / channels * sum(u x);   dgain[c] += sum_t dout x r
struct RmsNormBackwardArgs {
  const float* x;
  const float* gain;
  const float* dout;
  float* dx;     // may alias dout
  float* dgain;  // [channels] or null
  int64_t tokens, channels, x_stride, dout_stride, dx_stride;
  float eps;
  bool gain_plus_one;
  bool accumulate;  // dx
  float* scratch;   // [4 * tokens]
};

// Of LayerNormArgs. With n = (x - mean) r and u = dout * gain:
//   dx (+)= r (u - mean(u) - n mean(u n));   dgain += sum_t dout n;   dbias += sum_t dout
struct LayerNormBackwardArgs {
  const float* x;
  const float* gain;
  const float* dout;
  float* dx;     // may alias dout
  float* dgain;  // [channels] or null
  float* dbias;  // [channels] or null
  int64_t tokens, channels, x_stride, dout_stride, dx_stride;
  float eps;
  bool accumulate;
  float* scratch;  // [4 * tokens]
};

// Of AttentionArgs with query_tokens = key_tokens = tokens, query_offset 0, and rows of k, v as of q. p is
// recomputed from log_sum_exp. Linear memory: no matrix of scores.
//   dv = p^T dout;  dp = dout v^T;  ds = p (dp - sum(dout out));  dq = scale ds k;  dk = scale ds^T q
// (with softcap c: ds times 1 - (s / c)^2 of the capped score s). All three are overwritten.
struct AttentionBackwardArgs {
  const float* q;  // [sequences * tokens, heads * head_dim], row stride q_stride
  const float* k;  // [sequences * tokens, kv_heads * head_dim], row stride kv_stride
  const float* v;
  const float* out;          // of the forward, row stride out_stride
  const float* log_sum_exp;  // [sequences * tokens, heads]
  const float* dout;         // row stride dout_stride
  float* dq;                 // row stride dq_stride
  float* dk;                 // row stride dkv_stride
  float* dv;
  int64_t sequences, tokens, heads, kv_heads, head_dim;
  int64_t q_stride, kv_stride, out_stride, dout_stride, dq_stride, dkv_stride;
  float scale, softcap;
  int64_t window;
  bool causal;
};

// dx = f'(x) dout; dx may alias dout
struct ActivationBackwardArgs {
  const float* x;
  const float* dout;
  float* dx;
  int64_t rows, columns, x_stride, dout_stride, dx_stride;
  Activation kind;
};

// out = f(gate) up:  dgate = dout up f'(gate),  dup = dout f(gate); dgate or dup may alias dout, gate or up
struct GatedActivationBackwardArgs {
  const float* gate;
  const float* up;
  const float* dout;
  float* dgate;
  float* dup;
  int64_t rows, columns, gate_stride, up_stride, dout_stride, dgate_stride, dup_stride;
  Activation kind;
};

// out = softmax(x):  dx = out (dout - sum(out dout)); dx may alias dout
struct SoftmaxBackwardArgs {
  const float* out;
  const float* dout;
  float* dx;
  int64_t rows, columns, out_stride, dout_stride, dx_stride;
};

// dtable[ids[t], :] += scale * dout[t, :]
struct EmbeddingBackwardArgs {
  const int32_t* ids;  // [tokens], below rows
  const float* dout;   // [tokens, channels]
  float* dtable;       // [rows, channels], contiguous
  int64_t tokens, rows, channels, dout_stride;
  float scale;
};

// How far a student is from its teacher, per token. p_t, p_s: softmax of the logits at the temperature.
enum class Divergence : uint8_t {
  none,
  forward_kl,       // KL(p_t || p_s)
  reverse_kl,       // KL(p_s || p_t)
  jensen_shannon,   // beta KL(p_t || m) + (1 - beta) KL(p_s || m), m = beta p_t + (1 - beta) p_s
  total_variation,  // 1/2 sum |p_s - p_t|; its gradient takes the sign of p_s - p_t
};
// Probabilities that differ by less than this share of p_t differ by rounding: the sign of their difference
// is 0.
constexpr float kSameProbability = 1e-5f;
// Ids of a teacher that can be known at most.
constexpr int64_t kKnownIds = 65'536;

// What a teacher that is known in k ids only says of the others (algorithms.md 7.3).
enum class TeacherTail : uint8_t {
  bucket,  // all others are one more outcome
  zero,    // they have no probability; the k are renormalised
  topk,    // both sides are renormalised over the k
};

// Loss of rows of logits, and in their place its gradient, times `gradient_scale`:
//   alpha * CE + (1 - alpha) * [temperature^2] * divergence
// A row with a negative target counts for nothing: losses 0, gradient 0. Ids from `real_columns` on do not
// exist on either side: probability 0, gradient 0. The teacher is `teacher`, or the k ids of `top_*`, or
// nobody.
struct LossRowsArgs {
  float* logits;           // [rows, columns] of the student, after soft-capping; overwritten by the gradient
  const float* teacher;    // [rows, columns] logits, or null
  const int32_t* top_ids;  // [rows, top_count] different ids below real_columns, or null
  const float* top_log_probs;  // [rows, top_count]: log p_t of those ids at the temperature
  const int32_t* targets;      // [rows]; below real_columns
  double* cross_entropy;       // [rows], in nats
  double* divergence;          // [rows], in nats, without temperature^2
  int64_t rows, columns, real_columns, stride, teacher_stride, top_count;
  Divergence kind;
  TeacherTail tail;
  float alpha, temperature, beta;
  bool squares_temperature;  // whether temperature^2 multiplies the divergence
  float softcap;             // of the logits: the gradient is that before the cap; 0: none
  float gradient_scale;
};

// One step of AdamW. g = gradient * gradient_scale (0 where not kept):
//   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  w -= lr decay w;
//   w -= lr (m / correction1) / (sqrt(v / correction2) + eps);  w = m = v = 0 where not kept
// Source: Loshchilov and Hutter, "Decoupled weight decay regularization" (2019).
struct AdamWArgs {
  float* w;
  float* m;
  float* v;
  const float* gradient;
  const uint8_t* kept;                // bits of a Mask (rows of row_bytes), or null
  int64_t count, columns, row_bytes;  // with a mask: columns of the matrix
  float gradient_scale, lr, beta1, beta2, eps, decay, correction1, correction2;
};

// momentum = mu momentum + g;  w -= lr decay w;  w -= lr momentum (or g where there is none)
struct SgdArgs {
  float* w;
  float* momentum;  // or null
  const float* gradient;
  const uint8_t* kept;
  int64_t count, columns, row_bytes;
  float gradient_scale, lr, mu, decay;
};

// A matrix as its grid of codes sees it. s = scales[row, group]:
//   out = s * (clamp(rint(w / s) + zero, low, high) - zero)
struct FakeQuantizeArgs {
  const float* weight;                 // [rows, columns], contiguous
  const float* scales;                 // [rows, groups], > 0
  const float* zeros;                  // [rows, groups], whole numbers, or null: 0
  float* out;                          // [rows, columns]
  int64_t rows, columns, group_width;  // groups = columns / group_width, rounded up
  float low, high;                     // smallest and largest code
};

// The straight-through gradient with learned steps:
//   dweight = dout where low <= rint(w / s) + zero <= high, else 0
//   dscales += step_gradient * sum dout * (inside: rint(w / s) - w / s; below: low - zero; above: high -
//   zero)
// Source: Esser et al., "Learned step size quantization" (2020).
struct FakeQuantizeBackwardArgs {
  const float* weight;
  const float* scales;
  const float* zeros;
  const float* dout;
  float* dweight;  // may alias dout
  float* dscales;  // [rows, groups] or null
  int64_t rows, columns, group_width;
  float low, high, step_gradient;
};

// How far a row of states is from a teacher's.
enum class StateDistance : uint8_t {
  squared,  // |x - t|^2 / columns
  cosine,   // 1 - <x, t> / (|x| |t|), norms at least kLeastStateNorm
};
constexpr double kLeastStateNorm = 1e-8;

// values[r] = distance(x[r], teacher[r]);  dx[r] (+)= scale * gradient. A row with a negative id counts for
// nothing: 0.
struct StateDistanceArgs {
  const float* x;        // [rows, columns]
  const float* teacher;  // [rows, columns]
  const int32_t* ids;    // [rows]
  double* values;        // [rows]
  float* dx;             // [rows, columns] or null: no gradient; must not alias x
  int64_t rows, columns, x_stride, teacher_stride, dx_stride;
  StateDistance kind;
  bool accumulate;
  double scale;
};

// Relations of the tokens of one sequence: a row of products <x_i, x_j> stands for p = softmax_j(scale *
// row), over all columns, or (causal) those up to the row's own number.
//   values[i] = KL(p_t || p_s) in nats;  scores = gradient_scale * scale * (p_s - p_t), 0 where not seen
// A row with a negative id counts for nothing: 0.
struct RelationRowsArgs {
  float* scores;         // [rows, columns] of the student; overwritten
  const float* teacher;  // [rows, columns]
  const int32_t* ids;    // [rows]
  double* values;        // [rows]
  int64_t rows, columns, stride, teacher_stride;
  double scale, teacher_scale, gradient_scale;  // scales of both sides > 0
  bool causal;                                  // rows == columns
};

// sums[0] += sum x;  sums[1] += sum x^2, over the rows whose id is not negative
struct StateMomentsArgs {
  const float* x;      // [rows, columns]
  const int32_t* ids;  // [rows]
  double* sums;        // [2]
  int64_t rows, columns, stride;
};

// out += factor * sum x
struct AddSumArgs {
  const double* x;  // [count]
  double* out;      // [1]
  int64_t count;
  double factor;
};

// out += x
struct AddRowsArgs {
  const float* x;  // [rows, columns]
  float* out;
  int64_t rows, columns, x_stride, out_stride;
};

// Inputs of a linear as its integer product will round them (integer_product.h): with s and y the scale and
// zero point of the row,
//   out = s * clamp(rint(x / s), low - y, high - y)
// Dynamic: those of activation_grid(); static: s = *step, y as in `activation`, whose own scale is not read.
// A row that is not finite becomes NaN.
struct RoundInputsArgs {
  const float* x;     // [rows, columns]
  float* out;         // may alias x
  const float* step;  // [1] where static, else null
  int64_t rows, columns, x_stride, out_stride;
  ActivationQuant activation;
};

// Of static ones, in place: dx = 0 where rint(x / s) is outside of the range, and
//   *dstep += share * sum dx * (inside: rint(x / s) - x / s; below: low - y; above: high - y)
struct RoundInputsBackwardArgs {
  const float* x;  // [rows, columns]
  float* dx;       // in: the gradient of out
  const float* step;
  float* dstep;  // [1]
  int64_t rows, columns, x_stride, dx_stride;
  ActivationQuant activation;
  double share;
};

// Count elements whose squares are summed.
struct SquaresArgs {
  const float* x;
  int64_t count;
};

// x = +0 where not kept
struct MaskArgs {
  float* x;             // [rows, columns], contiguous
  const uint8_t* kept;  // bits of a Mask (rows of row_bytes)
  int64_t rows, columns, row_bytes;
};

// sums[c] += sum_r x[r, c]
struct ColumnSumsArgs {
  const float* x;
  float* sums;  // [columns]
  int64_t rows, columns, stride;
};

// out = factor * x; may alias
struct ScaleArgs {
  const float* x;
  float* out;
  int64_t count;
  float factor;
};

// out = x rounded to nearest even
struct RoundArgs {
  const float* x;
  void* out;
  DType dtype;  // bf16 or f16
  int64_t count;
};

// Steps of a grid brought back into what can be stored, and as they are stored:
//   steps = clamp(steps, least, most);  scales = steps rounded to `dtype`
// A step that is NaN or infinite becomes NaN in both.
struct BoundStepsArgs {
  float* steps;
  float* scales;  // [count], or [scale_count] where one step is for all rows (count 1)
  int64_t count, scale_count;
  float least, most;
  DType dtype;  // f32, bf16 or f16
};

class TrainingBackend {
 public:
  virtual ~TrainingBackend() = default;

  virtual size_t matmul_input_backward_workspace_bytes(int64_t m, int64_t n, int64_t k) const = 0;
  virtual void matmul_input_backward(const MatmulInputBackwardArgs&) = 0;
  virtual size_t matmul_weight_backward_workspace_bytes(int64_t m, int64_t n, int64_t k) const = 0;
  virtual void matmul_weight_backward(const MatmulWeightBackwardArgs&) = 0;

  virtual void rms_norm_backward(const RmsNormBackwardArgs&) = 0;
  virtual void layer_norm_backward(const LayerNormBackwardArgs&) = 0;
  virtual void rotary_backward(const RotaryArgs&) = 0;  // in place: the rotation the other way round
  virtual void attention_backward(const AttentionBackwardArgs&) = 0;
  virtual void activation_backward(const ActivationBackwardArgs&) = 0;
  virtual void gated_activation_backward(const GatedActivationBackwardArgs&) = 0;
  virtual void softmax_backward(const SoftmaxBackwardArgs&) = 0;
  virtual void embedding_backward(const EmbeddingBackwardArgs&) = 0;

  virtual void loss_rows(const LossRowsArgs&) = 0;

  virtual void adamw(const AdamWArgs&) = 0;
  virtual void sgd(const SgdArgs&) = 0;
  // sum of squares in double, in an order that depends on count alone
  virtual double sum_of_squares(const float* x, int64_t count) = 0;
  virtual void fake_quantize(const FakeQuantizeArgs&) = 0;
  virtual void fake_quantize_backward(const FakeQuantizeBackwardArgs&) = 0;

  // All parameters of a model at once, and one number for all of them; each of the list as by itself. On a
  // GPU one launch, and one wait for the number. The bytes of the number depend on the counts alone.
  virtual void adamw_list(std::span<const AdamWArgs> list);
  virtual double sum_of_squares_list(std::span<const SquaresArgs> list);

  // Losses between states of student and teacher; host loops in double by default.
  virtual void state_distance(const StateDistanceArgs&);
  virtual void relation_rows(const RelationRowsArgs&);
  virtual void state_moments(const StateMomentsArgs&);
  virtual void add_sum(const AddSumArgs&);
  virtual void add_rows(const AddRowsArgs&);

  // Rounded inputs; the host's is the definition.
  virtual void round_inputs(const RoundInputsArgs&);
  virtual void round_inputs_backward(const RoundInputsBackwardArgs&);

  // Small ones, host loops by default.
  virtual void apply_mask(const MaskArgs&);
  virtual void column_sums(const ColumnSumsArgs&);
  virtual void scale(const ScaleArgs&);
  virtual void round(const RoundArgs&);
  virtual void bound_steps(const BoundStepsArgs&);
};

}  // namespace pare
