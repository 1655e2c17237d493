// engine/run/decode_step.h: one step of decoding as a list of operations: buffers, which products are fused,
// and the order in which everything is asked for. Internal to DecodeRunner.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/models/block.h"
#include "engine/models/model.h"
#include "engine/run/kv_cache.h"
#include "engine/tensor/decode_backend.h"
#include "engine/tensor/workspace.h"

namespace pare {

struct DecodeStep {
  DecodeStep(const Model& model, KvCache& cache, DecodeBackend& decoding, int64_t sequences,
             const int32_t* ids, const int32_t* positions)
      : model(model),
        cache(cache),
        decoding(decoding),
        sequences(sequences),
        ids(ids),
        positions(positions) {}

  const Model& model;
  KvCache& cache;
  DecodeBackend& decoding;
  int64_t sequences;
  const int32_t* ids;        // on the device, [sequences]
  const int32_t* positions;  // the same

  Tensor logits;  // f32 [sequences, vocabulary]; made by allocate()

  // Buffers for all rows. Exit 6.
  Status allocate();
  // Asks for the step of the first `rows` sequences, of which none is longer than `longest`.
  void enqueue(int64_t rows, int64_t longest);
  // Which products of so many rows are not fused, and why: one line per reason.
  std::vector<std::string> notes(int64_t rows) const;

 private:
  enum class Part : uint8_t { qkv, output, mlp, down, head };
  struct Matrices {
    DecodeMatrix of[3];
    int count = 0;
  };
  Matrices matrices_of(int block, Part part) const;
  bool is_fused(int block, Part part, int64_t rows) const;
  const std::vector<std::string>& reasons(int64_t rows) const;  // per block and part

  void embed(int64_t rows);
  void attend(int block, int64_t rows, int64_t longest);
  void feed_forward(int block, int64_t rows);
  void predict(int64_t rows);
  DecodeHeadsArgs heads_of(int block, int64_t rows) const;
  DecodeCache cache_of(int block) const;

  Tensor hidden_, qkv_, mixed_, inner_, gate_, counters_;
  Workspace workspace_;  // of operations that are not fused
  mutable std::map<int64_t, std::vector<std::string>> reasons_;
};

}  // namespace pare
