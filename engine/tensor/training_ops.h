// engine/tensor/training_ops.h: the only callers of TrainingBackend, as ops.h is of Backend. Formulas and the
// rule of what is added and what overwritten stand in training_backend.h.
#pragma once

#include <span>

#include "engine/tensor/mask.h"
#include "engine/tensor/ops.h"
#include "engine/tensor/training_backend.h"

namespace pare::ops {

// Whether models can be trained on this device; everything below asserts that they can.
bool can_train(Device device);

// dout [m, n], weight [n, k], dx [m, k]
void matmul_input_backward(const Tensor& dout, const Tensor& weight, bool accumulate, Tensor& dx,
                           Workspace& workspace);
size_t matmul_input_backward_workspace_bytes(Device device, int64_t m, int64_t n, int64_t k);
// x [m, k], dout [m, n]; dweight f32 [n, k] and dbias f32 [n], which may be undefined, are added to
void matmul_weight_backward(const Tensor& x, const Tensor& dout, Tensor& dweight, Tensor& dbias,
                            Workspace& workspace);
size_t matmul_weight_backward_workspace_bytes(Device device, int64_t m, int64_t n, int64_t k);

// dgain and dbias may be undefined
void rms_norm_backward(const Tensor& x, const Tensor& gain, float eps, bool gain_plus_one, const Tensor& dout,
                       bool accumulate, Tensor& dx, Tensor& dgain, Workspace& workspace);
void layer_norm_backward(const Tensor& x, const Tensor& gain, float eps, const Tensor& dout, bool accumulate,
                         Tensor& dx, Tensor& dgain, Tensor& dbias, Workspace& workspace);
size_t norm_backward_workspace_bytes(int64_t tokens);

// In place: the gradient of what was rotated.
void rotary_backward(Tensor& dx, const Tensor& positions, const Tensor& cosines, const Tensor& sines,
                     int64_t heads);

// ops::attention that also gives log_sum_exp f32 [sequences * tokens, heads].
void attention_training(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                        Tensor& out, Tensor& log_sum_exp);
void attention_backward(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                        const Tensor& out, const Tensor& log_sum_exp, const Tensor& dout, Tensor& dq,
                        Tensor& dk, Tensor& dv);

void activation_backward(Activation kind, const Tensor& x, const Tensor& dout, Tensor& dx);
void gated_activation_backward(Activation kind, const Tensor& gate, const Tensor& up, const Tensor& dout,
                               Tensor& dgate, Tensor& dup);
void softmax_backward(const Tensor& out, const Tensor& dout, Tensor& dx);
void embedding_backward(const Tensor& ids, const Tensor& dout, float scale, Tensor& dtable);

// What loss_rows needs beside its tensors.
struct LossRowsOptions {
  int64_t real_columns = 0;
  Divergence kind = Divergence::none;
  TeacherTail tail = TeacherTail::bucket;
  float alpha = 1.0f, temperature = 1.0f, beta = 0.5f;
  bool squares_temperature = true;
  float softcap = 0.0f;
  float gradient_scale = 1.0f;
};
// logits [rows, columns], overwritten; targets i32 [rows]; cross_entropy, divergence f64 [rows]. teacher
// [rows, >= real_columns], or top_ids i32 with top_log_probs f32 [rows, k]; the others undefined.
void loss_rows(Tensor& logits, const Tensor& teacher, const Tensor& top_ids, const Tensor& top_log_probs,
               const Tensor& targets, const LossRowsOptions& options, Tensor& cross_entropy,
               Tensor& divergence);

struct AdamWStep {
  float gradient_scale = 1.0f, lr = 1e-4f, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, decay = 0.0f;
  int64_t step = 1;  // t of the bias corrections
};
// All f32 of one shape; mask may be null.
void adamw(Tensor& w, Tensor& m, Tensor& v, const Tensor& gradient, const Mask* mask, const AdamWStep& step);
// The same for every parameter of a model; on a GPU one launch. All on one device.
struct AdamWItem {
  Tensor w, m, v, gradient;
  const Mask* mask;  // or null; lives until the call ends
  AdamWStep step;
};
void adamw_list(std::span<const AdamWItem> items);
struct SgdStep {
  float gradient_scale = 1.0f, lr = 1e-2f, momentum = 0.0f, decay = 0.0f;
};
// momentum may be undefined
void sgd(Tensor& w, Tensor& momentum, const Tensor& gradient, const Mask* mask, const SgdStep& step);
double sum_of_squares(const Tensor& x);
// Of all together, contiguous f32 on one device; one wait on a GPU.
double sum_of_squares(std::span<const Tensor> list);

struct CodeRange {
  float low = -8.0f, high = 7.0f;
};
// weight, out, dout, dweight f32 [rows, columns]; scales f32 [rows, groups]; zeros the same or undefined;
// dscales may be undefined
void fake_quantize(const Tensor& weight, const Tensor& scales, const Tensor& zeros, int64_t group_width,
                   CodeRange range, Tensor& out);
void fake_quantize_backward(const Tensor& weight, const Tensor& scales, const Tensor& zeros,
                            int64_t group_width, CodeRange range, float step_gradient, const Tensor& dout,
                            Tensor& dweight, Tensor& dscales);

// Losses between states of student and teacher: StateDistanceArgs and the structs behind it. ids i32 [rows];
// values f64 [rows]; dx may be undefined.
void state_distance(StateDistance kind, const Tensor& x, const Tensor& teacher, const Tensor& ids,
                    double scale, bool accumulate, Tensor& values, Tensor& dx);
struct RelationScales {
  double student = 1.0, teacher = 1.0, gradient = 1.0;
};
// scores, teacher [tokens, tokens]
void relation_rows(Tensor& scores, const Tensor& teacher, const Tensor& ids, bool is_causal,
                   const RelationScales& scales, Tensor& values);
void state_moments(const Tensor& x, const Tensor& ids, Tensor& sums);  // sums f64 [2], added to
void add_sum(const Tensor& x, double factor, Tensor& out);             // x f64, contiguous; out f64 [1]
void add_rows(const Tensor& x, Tensor& out);                           // out += x; rows may have gaps

// RoundInputsArgs; step f32 [1] on the device of x where `activation` is static, else undefined. dx in place,
// dstep f32 [1] added to.
void round_inputs(const Tensor& x, const ActivationQuant& activation, const Tensor& step, Tensor& out);
void round_inputs_backward(const Tensor& x, const ActivationQuant& activation, const Tensor& step,
                           double share, Tensor& dx, Tensor& dstep);

// x = +0 where the mask (whose bits are on the device of x) removes; contiguous f32 [out, in]
void apply_mask(const Mask& mask, Tensor& x);
// sums f32 [columns] += the rows of x [rows, columns]
void column_sums(const Tensor& x, Tensor& sums);
// out = factor * x; contiguous f32, may alias
void scale(const Tensor& x, float factor, Tensor& out);
// The values of contiguous x, rounded to the type of out (bf16 or f16) or as they are (f32).
void round_into(const Tensor& x, Tensor& out);
// BoundStepsArgs. scales: the shape of steps, or any where there is one step.
void bound_steps(float least, float most, DType dtype, Tensor& steps, Tensor& scales);

}  // namespace pare::ops
