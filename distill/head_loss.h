// distill/head_loss.h: final norm, head and loss of a batch in chunks of rows, forward and backward in one
// go. Logits are never whole in memory: the gradient overwrites those of the chunk, and is used up before the
// next chunk begins.
//
//   for chunk of C rows, in order:
//     n = norm(hidden);  Z = n W^T, soft-capped;  the teacher's logits of the same rows
//     losses per row;  Z <- G = gradient_scale dL/dZ
//     dn = G W;  dW += G^T n;  dhidden = norm'(dn)
//
// Rows with a negative target count for nothing. Vocabularies that are padded differently: ids from min(V_s,
// V_t) on do not exist. The result is independent of C up to rounding of dW; C follows from shapes alone.
// Memory C (V_s + V_t) 4 bytes in place of N V 12. Source: docs/methods.md, training; Hsu et al., "Liger
// kernel" (2024).
#pragma once

#include "distill/loss.h"
#include "distill/teacher.h"
#include "engine/models/layers/norm.h"
#include "engine/models/weight.h"
#include "engine/tensor/workspace.h"

namespace pare {

// Default of the bytes that the logits of a chunk may take on both sides together.
inline constexpr size_t kLossBytes = size_t(64) << 20;

// Rows of a chunk: as many as fit `budget_bytes`, at most 3/10 of the rows of a batch (a fifth of what whole
// logits of student, teacher and gradient would take), at least 32, at most `tokens`. columns: of student and
// teacher together.
int64_t loss_chunk_rows(int64_t tokens, int64_t columns, size_t budget_bytes);

// What the loss of a batch reads of a student.
struct HeadParts {
  const Norm& norm;
  const Weight& head;
  float softcap = 0.0f;         // of the logits; 0: none
  int64_t vocabulary_size = 0;  // real ids; head.out() may be larger
};
HeadParts head_of(const TrainingModel& student);

// Sums over the rows with a target, in nats and in double, in row order.
struct LossSums {
  double cross_entropy = 0.0;
  double divergence = 0.0;  // without temperature^2
  int64_t tokens = 0;       // rows with a target
  // alpha CE + (1 - alpha) [temperature^2] D, a sum like the others
  double total(const LossConfig& config) const;
  void add(const LossSums& other);
};

// Scratch bytes of run_head_loss() for batches of this many tokens in chunks of this many rows, without the
// teacher's.
size_t head_loss_bytes(const HeadParts& head, int64_t chunk_rows, int64_t tokens);

struct HeadLossRun {
  const LossConfig& config;
  Teacher* teacher =
      nullptr;  // null: ce, or only the cross entropy is wanted; else start() was called for this batch
  int64_t chunk_rows = 0;
  float gradient_scale = 1.0f;
};

// hidden f32 [tokens, channels]: the output of the last block; targets i32 [tokens], in host memory. Losses
// are read back once, after the last chunk. dhidden: overwritten; undefined: no gradient is wanted and none
// is added to norm and head. Exit 3 (CF33) for a target outside the real ids; errors of the teacher. Losses
// that are not finite are the caller's to check.
Result<LossSums> run_head_loss(const HeadParts& head, const HeadLossRun& run, const Tensor& hidden,
                               const Tensor& targets, Tensor& dhidden, Workspace& workspace);

}  // namespace pare
