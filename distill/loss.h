// distill/loss.h: which loss a student is trained with.
//
//   L = alpha CE + (1 - alpha) [temperature^2] D(teacher, student),  both means over the tokens with a target
//
// CE is always at temperature 1. The formulas of the divergences and of their gradients stand in
// engine/tensor/training_backend.h. Source: docs/methods.md, training; Hinton et al., "Distilling the
// knowledge in a neural network" (2015).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/json.h"
#include "engine/core/result.h"
#include "engine/tensor/training_ops.h"

namespace pare {

enum class LossKind : uint8_t {
  ce,          // targets only; alpha is 1
  kl,          // forward KL(p_t || p_s) only; alpha is 0
  ce_kl,       // both
  reverse_kl,  // KL(p_s || p_t); alpha below 1
  jsd,         // Jensen-Shannon with weight beta of the teacher; alpha below 1
  tvd,         // total variation; alpha below 1
};

// "ce", "kl", "ce+kl", "reverse-kl", "jsd", "tvd"
std::string_view loss_kind_name(LossKind kind);
// Exit 2 (CL06) listing the names.
Result<LossKind> loss_kind_from_name(std::string_view name);

// "bucket", "zero", "topk"
std::string_view teacher_tail_name(TeacherTail tail);
Result<TeacherTail> teacher_tail_from_name(std::string_view name);  // exit 2 (CL06)

struct LossConfig {
  LossKind kind = LossKind::kl;
  double alpha = 0.0;        // share of CE, [0, 1]
  double temperature = 1.0;  // of the divergence, > 0
  bool squares_temperature =
      true;           // temperature^2 multiplies the divergence, so that alpha means the same at all
  double beta = 0.5;  // of jsd: weight of the teacher in the mixture, (0, 1)
  TeacherTail tail = TeacherTail::bucket;  // of a teacher that is known in its k best ids only

  // What a kind means when nothing else is said. A student that was cut out of its teacher: alpha 0,
  // temperature 1; an unrelated one with ce+kl: alpha 0.5, temperature 2.
  static LossConfig defaults(LossKind kind, bool is_cut_from_teacher);

  bool needs_teacher() const { return kind != LossKind::ce; }
  Divergence divergence() const;
  // Exit 2 (CL06) naming the field outside its range, or alpha that contradicts the kind.
  Status validate() const;
  // Members in fixed order, for identities and manifests.
  Json to_json() const;
};

// What ops::loss_rows gets: `real_columns` ids exist on both sides; logits are soft-capped where softcap > 0;
// gradient_scale multiplies the gradient (1 / N, times a loss scale).
ops::LossRowsOptions rows_options(const LossConfig& config, int64_t real_columns, float softcap,
                                  float gradient_scale);

}  // namespace pare
