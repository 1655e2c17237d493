// distill/teacher.h: what a teacher says of a batch, given chunk by chunk so that its logits are never whole
// in memory.
//
//   PARE_CHECK(teacher.reserve(largest, chunk_rows, needs));
//   each micro-batch:
//     PARE_CHECK(teacher.start({ids, batch, windows}));
//     PARE_TRY(const TeacherRows rows, teacher.rows(begin, end));   // chunks in any order
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "distill/loss.h"
#include "engine/models/model.h"
#include "engine/models/training_model.h"

namespace pare {

// A micro-batch as the student sees it.
struct TeacherBatch {
  Tensor ids;  // i32 [tokens]
  Batch batch;
  std::span<const int64_t> windows;  // [sequences]: the number of each window in the training data
};

// States that losses of intermediate layers compare, beside the logits.
struct TeacherNeeds {
  std::vector<int>
      hidden;  // as TrainingModel::hidden(): 0 the embedding, i the output of block i - 1; ascending
  std::vector<int> attention = {};  // blocks whose queries, keys and values are wanted; ascending
  bool empty() const { return hidden.empty() && attention.empty(); }
};

// Of some rows: either logits, or the ids it holds most likely. Undefined tensors where it is the other.
struct TeacherRows {
  Tensor logits;         // f32 [rows, vocabulary]
  Tensor top_ids;        // i32 [rows, k]
  Tensor top_log_probs;  // f32 [rows, k], at the temperature of the loss
};

class Teacher {
 public:
  virtual ~Teacher() = default;

  virtual int64_t vocabulary_size() const = 0;
  // Columns of rows().logits, for which a chunk of the loss needs room; 0: only its best ids are known.
  virtual int64_t logit_columns() const { return vocabulary_size(); }
  virtual int64_t hidden_size() const = 0;  // 0: hidden states are not known
  // Exit 2 or 3 when it cannot serve this loss (a cache made at another temperature), exit 4 when it cannot
  // give `needs`.
  virtual Status check(const LossConfig& loss, const TeacherNeeds& needs) const = 0;
  // Memory for batches up to this size and chunks up to this many rows. Exit 6.
  virtual Status reserve(const Batch& largest, int64_t chunk_rows, const TeacherNeeds& needs) = 0;
  virtual uint64_t held_bytes() const = 0;

  // Exit 3, 5, 6.
  virtual Status start(const TeacherBatch& batch) = 0;
  // Rows [begin, end) of the batch, at most chunk_rows; valid until the next call of rows() or start().
  virtual Result<TeacherRows> rows(int64_t begin, int64_t end) = 0;
  // What reserve() was told that is needed; valid until the next start().
  virtual const Tensor& hidden(int index) const = 0;
  virtual const AttentionParts& attention(int block) const = 0;
};

// A teacher that runs beside the student, in whichever form its weights are (dense, codes, sparse, low rank).
// one_block_at_a_time: its blocks are loaded, run and dropped in every batch, so that one block and one
// batch's hidden states are in memory; else it is loaded whole, once, by reserve().
std::unique_ptr<Teacher> live_teacher(std::unique_ptr<Model> model, bool one_block_at_a_time);

}  // namespace pare
