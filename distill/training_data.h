// distill/training_data.h: what a training run reads: streams of tokens as an endless sequence of samples.
//
// A stream is cut into disjoint windows of `context` tokens; a sample is one window: its inputs, and as
// targets the token behind each input. Sample i depends on (seed, i, streams, options) alone, so that the
// place where a run stands is one number, and several processes read without talking to each other.
//
//   without BOS  window w: inputs ids[b, b + C), targets ids[b + 1, b + C], b = w C. The last target is
//   masked where the
//                stream, or the part of it that is trained on, ends.
//   with BOS     window w: inputs BOS, ids[b, b + C - 1), targets ids[b, b + C): each token is a target once.
//
// Order: the windows of stream s in epoch e are permuted by Random(seed, shuffling, s) with step e; streams
// are mixed by stream_mixer.h. Tokens that fill no window are left out. Documents were packed into the stream
// one after another when it was encoded (engine/tokenizer/token_windows.h).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "distill/stream_mixer.h"
#include "engine/core/json.h"
#include "engine/core/result.h"
#include "engine/tensor/tensor.h"
#include "engine/tokenizer/token_windows.h"

namespace pare {

struct TrainingStream {
  std::shared_ptr<const TokenStream> tokens;
  std::string name{};  // for messages: the file as the user gave it
  // Share of the samples, relative to the others, > 0. 0 for all streams: in proportion to their windows, so
  // that an epoch of all streams ends at once.
  double weight = 0.0;
};

enum class DataPart {
  all,       // every window
  training,  // without the held-out windows
  held_out,  // those only, in order, streams in proportion: windows() samples are each of them once
};

struct TrainingDataOptions {
  int64_t context = 0;  // tokens of a window, >= 2
  uint64_t seed = 0;
  bool shuffle = true;                // false: windows in reading order
  bool mask_document_starts = false;  // the first token of a document is no target, for nothing foretells it
  int32_t bos_id = -1;                // >= 0: put in front of every window
  double held_out_share = 0.0;        // of the windows of each stream, from its end; [0, 1)
  int64_t vocabulary = 0;             // > 0: every id lies below
};

// A window in its stream, counted over the whole stream whatever the part.
struct WindowId {
  int32_t stream = 0;
  int64_t window = 0;
  bool operator==(const WindowId&) const = default;
};

struct TrainingBatch {
  Tensor ids;      // i32 [sequences * context]
  Tensor targets;  // i32 [sequences * context]; -1: masked
  std::vector<WindowId> windows;
  int64_t sequences = 0, tokens = 0, counted_targets = 0;
};

class TrainingData {
 public:
  // Exit 2 (CL06, CL13) an option out of range, or weights for some streams only; exit 3 (DT07) a stream with
  // fewer tokens than a window, or no window to hold out or to train on; exit 3 (DT14) an id outside the
  // vocabulary.
  static Result<TrainingData> create(std::vector<TrainingStream> streams, const TrainingDataOptions& options,
                                     DataPart part = DataPart::training);
  TrainingData(TrainingData&&) noexcept;
  TrainingData& operator=(TrainingData&&) noexcept;
  ~TrainingData();

  // Samples [first, first + sequences). Safe from several threads. Exit 6.
  Result<TrainingBatch> batch(int64_t first_sample, int64_t sequences) const;
  WindowId window_of(int64_t sample) const;
  // Targets of these samples that count, without making them: the N of a step over all its micro-batches.
  int64_t counted_targets(int64_t first_sample, int64_t sequences) const;

  int64_t context() const;
  int64_t windows() const;           // of this part; all streams
  int64_t tokens_per_epoch() const;  // windows() * context()
  const TrainingDataOptions& options() const;
  // How many samples it takes until every window of every stream was seen at least once.
  int64_t samples_per_pass() const;

  // For a teacher cache, which holds every window of every stream whatever the part: how many there are,
  // where a window stands in it, its inputs (`context()` ids), and a digest of all inputs in that order (32
  // hex digits).
  int64_t all_windows() const;
  int64_t index_of(const WindowId& id) const;
  void inputs_of(int64_t index, int32_t* ids) const;
  const std::string& input_hash() const;

  // For identities and manifests: hashes, weights, counts and rules; no paths.
  Json to_json() const;

 private:
  TrainingData();
  struct State;
  std::unique_ptr<State> state_;
};

// How the samples of a run are dealt out: a step is `ranks` x `accumulation` micro-batches of `sequences`
// samples, in order, the first `accumulation` of them for rank 0. So R ranks with accumulation A read exactly
// the micro-batches of one rank with accumulation R A.
struct BatchPlan {
  int64_t sequences = 1;     // of a micro-batch
  int64_t accumulation = 1;  // micro-batches of one rank in a step
  int rank = 0, ranks = 1;

  int64_t samples_per_step() const { return sequences * accumulation * ranks; }
  int64_t first_sample(int64_t step, int64_t micro_batch) const {
    return step * samples_per_step() + (rank * accumulation + micro_batch) * sequences;
  }
};

}  // namespace pare
