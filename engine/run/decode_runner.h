// engine/run/decode_runner.h: steps of decoding that a device runs by itself. A step is recorded once per
// shape and replayed for every token: ids, positions and counters stand in device memory, the next id is
// chosen there, and the host reads it while the step after it runs.
//
// Rows of products go through fused operations (engine/tensor/decode_backend.h) where the backend has them,
// and through the ordinary ones of the model otherwise; notes() says where and why. Prompts run through the
// model in the ordinary way; the cache is the same.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/models/model.h"
#include "engine/run/kv_cache.h"
#include "engine/run/sampler.h"
#include "engine/tensor/decode_backend.h"

namespace pare {

struct DecodeStep;  // decode_step.h

class DecodeRunner {
 public:
  static constexpr int64_t kSequences = 64;  // at most

  // Why steps of this model cannot be recorded, on any device; empty: they can. capacity: positions of the
  // cache.
  static std::string why_not(const Model& model, int64_t capacity);

  // For 1 to kSequences sequences, row r being sequence r of the cache. The model is loaded and has
  // reserve_positions(capacity) behind it; model, cache and backend outlive the runner. Exit 6.
  static Result<std::unique_ptr<DecodeRunner>> create(Model& model, KvCache& cache, int64_t sequences,
                                                      DecodeBackend& decoding);
  ~DecodeRunner();

  // Row `row` goes on behind `history` (prompt, and what came after it), whose keys and values are in the
  // cache; its next id, number 0, is chosen from `logits` (f32 [1, vocabulary], on the device). Exit 6.
  Status start(int64_t row, std::span<const int32_t> history, const SamplerOptions& options,
               const Tensor& logits);

  // Runs the id that was chosen last in each of the rows 0 .. rows - 1 and chooses the next one. Rows up to
  // the next power of two run along; those that were never started, or have ended, compute nothing that is
  // read. A row that has no room left stays at its last position. Does not wait. Exit 6.
  Status step(int64_t rows);

  // The id with this number of a row, waiting for it. At most kDecodeMarks - 1 steps may lie between. Exit 7
  // as Sampler::next, 6.
  Result<int32_t> id(int64_t row, int64_t number);

  const std::vector<std::string>& notes() const { return notes_; }
  int64_t kernels_per_step(int64_t rows) const;  // of the recording used last with so many rows; 0: none yet
  int64_t recordings() const { return int64_t(recordings_.size()); }

 private:
  struct Row {
    int64_t position = 0;  // of the id that runs next
    int64_t draws = 0;
    bool is_greedy = true;
    int64_t marks[kDecodeMarks] = {};  // by number of the draw: when it will have been made
  };
  struct Shape {
    int64_t rows, longest;
    bool is_greedy;
    auto operator<=>(const Shape&) const = default;
  };

  DecodeRunner(Model& model, KvCache& cache, int64_t sequences, DecodeBackend& decoding);
  Status allocate();
  DecodeState state(int64_t row, int64_t rows) const;
  void choose(const Tensor& logits, int64_t row, int64_t rows, bool advance, bool is_greedy);
  Status run(const Shape& shape);
  Status note_draws(int64_t row, int64_t rows);

  Model& model_;
  KvCache& cache_;
  int64_t sequences_;
  DecodeBackend& decoding_;
  std::unique_ptr<DecodeStep> step_;
  std::unique_ptr<DecodePinned> ring_;
  Tensor ids_, positions_, draws_, seen_, sampling_, choose_workspace_;
  std::vector<Row> rows_;
  int64_t mark_ = 0;
  // Null: the shape has run once, operation by operation, so that what grows has grown.
  std::map<Shape, std::unique_ptr<DecodeGraph>> recordings_;
  std::map<int64_t, int64_t> kernels_;  // by rows
  std::vector<std::string> notes_;
};

}  // namespace pare
