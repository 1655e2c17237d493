// distill/intermediate_loss.h: losses that compare states inside student and teacher; they enter the
// student's backward pass through BackwardHooks (engine/models/training_model.h).
//
//   hidden states, per pair of layers (means over the N tokens with a target):
//     mse      1 / (N D_t) sum |h_s P^T - h_t|^2 / variance(h_t)
//     cosine   1 - mean cos(h_s P^T, h_t)
//   P [D_t, D_s] is learned and dropped after training; none where the sizes are equal.
//   attention, per pair of blocks, relations of queries, of keys and of values:
//     mean over heads and rows of KL(A_t || A_s),  A = softmax(X X^T / sqrt(d)) row by row
//   with X cut into the same number of relation heads on both sides, whatever the head counts.
//
// The sum of all enters with a weight: fixed, or chosen so that it weighs as much as the loss of the logits
// did in the step before. The variances, and the weight of the first step, are measured on the data of the
// first step. Source: Sun et al., "Patient knowledge distillation" (2019); Wang et al., "MiniLMv2" (2021);
// docs/methods.md, training.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "distill/gradient_exchange.h"
#include "distill/teacher.h"
#include "distill/trainer_state.h"
#include "engine/models/training_model.h"

namespace pare {

enum class HiddenLossKind : uint8_t { none, mse, cosine };
Result<HiddenLossKind> hidden_loss_kind_from_name(
    std::string_view name);  // "none", "mse", "cosine"; exit 2 (CL06)

struct IntermediateConfig {
  HiddenLossKind hidden = HiddenLossKind::none;
  // The teacher's layer that each of the student's blocks came from, ascending; empty: spread evenly, block l
  // of L_s looks at round((l + 1) L_t / L_s) - 1.
  std::vector<int> surviving_layers = {};
  bool attention = false;      // relations of the last block (and the teacher's block that belongs to it)
  int64_t relation_heads = 0;  // 0: as many as divide all widths, at most the teacher's heads
  double weight = 0.0;         // of the sum; 0: as much as the loss of the logits

  bool enabled() const { return hidden != HiddenLossKind::none || attention; }
  Json to_json() const;
};

// The teacher's block for each of the student's. Exit 2 (CL06) when surviving_layers has another length,
// falls, or names a block that the teacher has not.
Result<std::vector<int>> map_layers(int64_t student_blocks, int64_t teacher_blocks,
                                    const std::vector<int>& surviving);

// All tensors of both are on one device, and so is the workspace. target_ids i32 [tokens]: rows with a
// negative one do not count. `sum` f64 [1] is added to; nothing waits.
//
// h [tokens, D_s] against target [tokens, D_t] through an optional projection: the sum over counting rows of
// |e|^2 / D_t (mse) or 1 - cos (cosine). `scale` multiplies the gradient; dh is added to, and so is
// projection->gradient; an undefined dh: no gradient.
void hidden_loss(HiddenLossKind kind, const Tensor& h, const Tensor& target, Parameter* projection,
                 const Tensor& target_ids, double scale, Tensor& dh, Tensor& sum, Workspace& workspace);
size_t hidden_loss_bytes(Device device, int64_t tokens, int64_t student_size, int64_t teacher_size);

// x [tokens, relation_heads * d_s], target [tokens, relation_heads * d_t]; rows may have gaps: the sum over
// counting rows of the mean over heads of KL; dx is added to; undefined: no gradient. Memory of one matrix of
// scores on each side. Exit 6.
Status relation_loss(const Tensor& x, const Tensor& target, const Batch& batch, int64_t relation_heads,
                     bool is_causal, const Tensor& target_ids, double scale, Tensor& dx, Tensor& sum,
                     Workspace& workspace);
size_t relation_loss_bytes(Device device, int64_t tokens_per_sequence, int64_t student_width,
                           int64_t teacher_width, int64_t relation_heads);

// All of them for one pair of models.
class IntermediateLoss {
 public:
  // Sizes of the teacher; the projections begin as random matrices of norm-keeping scale from `seed`. Exit 2
  // (a mapping that does not fit), 6.
  static Result<std::unique_ptr<IntermediateLoss>> make(const IntermediateConfig& config,
                                                        const TrainingModel& student,
                                                        const ModelConfig& teacher, uint64_t seed);
  ~IntermediateLoss();

  const TeacherNeeds& needs() const;
  // The projections, kind adapter; to be trained with the student's parameters and dropped.
  const ParameterList& parameters() const;
  Status reserve(const Batch& largest);  // exit 6

  // First pass over the data of the first step: collects variances and values. `logit_loss`: the sum of the
  // batch.
  Status measure(TrainingModel& student, const Teacher& teacher, const Batch& batch, const Tensor& targets,
                 double logit_loss);
  // After the last batch of that pass. Collective.
  Status finish_measuring(GradientExchange& exchange);
  bool is_measured() const;

  // Hooks for the backward pass of this batch; the teacher was started for it. gradient_scale: 1 / N of the
  // step times the loss scale. What they point to stays alive until backward() returns.
  // Exit 6.
  Result<BackwardHooks> hooks(TrainingModel& student, const Teacher& teacher, const Batch& batch,
                              const Tensor& targets, double gradient_scale);
  // After the last batch of a step, also of one that is left out: the weighted value per token; then the
  // weight of the next step is known. logit_loss: the sum over all ranks. Collective.
  Result<double> finish_step(GradientExchange& exchange, double logit_loss, int64_t tokens);

  void save(TrainerState& state) const;  // variances and weight; projections are saved as parameters
  Status restore(const TrainerState& state, GradientExchange& exchange);  // collective; exit 3

 private:
  IntermediateLoss();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pare
