// engine/models/model.h: embed -> blocks -> head. Knows nothing of calibration, files or sampling. Blocks can
// be loaded, run and dropped one at a time, so that a model larger than memory can still be walked.
#pragma once

#include <initializer_list>
#include <memory>
#include <optional>
#include <vector>

#include "engine/models/architecture.h"
#include "engine/models/weight.h"
#include "engine/tensor/workspace.h"

namespace pare {

class Block;            // block.h: one transformer layer
class RotaryTable;      // rope.h
struct Norm;            // layers/norm.h
struct AttentionParts;  // layers/attention.h

// Rows of a batch: `sequences` sequences of `tokens_per_sequence` consecutive tokens each; the first token of
// a sequence has position `first_position` (0 unless a cache holds earlier ones).
struct Batch {
  int64_t sequences = 1;
  int64_t tokens_per_sequence = 0;
  int64_t first_position = 0;
  int64_t tokens() const { return sequences * tokens_per_sequence; }
};

// Keys and values of one block for positions before and including the current batch: as floats, or as codes.
struct BlockCache {
  Tensor keys;    // f32, or bf16 on a GPU [sequences, kv_heads, capacity, head_dim]
  Tensor values;  // the same
  KvQuant kv = {};
  KvCodes key_codes = {}, value_codes = {};
};

// Option "kv" of the manifest, none when there is none. Exit 3 for a value that is not one.
Result<KvQuant> stored_kv(const WeightSource& source);

class Model {
 public:
  // Describes and checks the source; loads embedding and final norm lazily. kv: how keys and values are kept;
  // nothing: as the model's manifest says (stored_kv). Exit 3, 4.
  static Result<std::unique_ptr<Model>> open(std::shared_ptr<const WeightSource> source, Device device,
                                             std::optional<KvQuant> kv = std::nullopt);
  ~Model();

  const ModelDescription& description() const { return description_; }
  const ModelConfig& config() const { return description_.config; }
  Device device() const { return device_; }
  const WeightSource& source() const { return *source_; }

  // Loading. load_all() for running, or block by block; dropping releases mapped pages too.
  Status load_all();
  Status load_embedding();
  Status load_block(int index);
  Status load_head();  // final norm and head (or the tied embedding)
  void drop_block(int index);
  void drop_embedding();  // keeps it when the head is tied and loaded
  void drop_head();
  bool block_loaded(int index) const;
  // Hint for walks, once a block is loaded and before it computes: block `index` is loaded next, and its
  // bytes may be on their way by then (Backend::prefetch). At most one block is; one beyond the last, or one
  // that is loaded, means none. Several models on one device, whose blocks are loaded together, are named
  // together.
  void prefetch_block(int index);
  static void prefetch_blocks(std::initializer_list<Model*> models, int index);  // null models are left out
  std::vector<HostRange> block_ranges(int index) const;  // what that names; empty beyond the last block
  uint64_t prefetch_bytes() const;                       // of the largest block
  uint64_t loaded_bytes() const;                         // weights in their working form

  // Prepares for sequences of `positions` tokens, so that running them allocates nothing. Exit 6.
  Status reserve_positions(int64_t positions);

  // Bytes of workspace for a batch of this shape (largest of embed, block and head with `logit_rows` rows at
  // a time). Also before anything is loaded.
  size_t workspace_bytes(const Batch& batch, int64_t logit_rows) const;

  // hidden f32 [tokens, hidden]. ids i32 [tokens], on any host or on the model's device. Exit 3 for an id
  // outside the vocabulary (of ids on a GPU whoever wrote them there answers for that), 2 for a position
  // beyond a learned table.
  Status embed(const Tensor& ids, const Batch& batch, Tensor& hidden, Workspace& workspace);
  // In place: hidden -> output of block `index`. cache may be null (whole sequences from position 0).
  Status run_block(int index, const Batch& batch, Tensor& hidden, BlockCache* cache, Workspace& workspace);
  // The stages of a block (block.h), for calibration: what the linears at `site` get, from the block's input
  // (attention_in), its running hidden state (mlp_in), or the site before (attention_out, mlp_out).
  Status produce(int index, Site site, const Batch& batch, const Tensor& from, Tensor& x,
                 Workspace& workspace);
  void consume(int index, Site site, const Tensor& x, Tensor& hidden, Workspace& workspace) const;
  int64_t site_channels(int index, Site site) const;  // of a loaded block
  // What one expert of a mixture gives, unweighted: out f32 [tokens, hidden] = down(inner), inner f32
  // [tokens, intermediate size] from its slots (expert_slots.h).
  void expert_output(int index, int expert, const Tensor& inner, Tensor& out, Workspace& workspace) const;
  // Loads one part (of an expert) of a loaded block again, after the source has changed.
  Status reload(int index, Role role, int expert = -1);
  // Rotated queries and keys, and values of block `index`, from its input `hidden`, which stays as it is;
  // views of what is taken from `kept`. Workspace as for run_block(). Whole sequences from position 0.
  Status attention_parts(int index, const Batch& batch, const Tensor& hidden, AttentionParts& parts,
                         Workspace& kept, Workspace& workspace);
  size_t attention_bytes(int index, const Batch& batch) const;  // of `kept`; also before anything is loaded
  // Final norm and head of `rows` (f32 [n, hidden], a slice of hidden) into logits f32 [n, vocabulary].
  Status run_head(const Tensor& rows, Tensor& logits, Workspace& workspace);

  // Loaded parts, for a runner that puts the same computation together in another way (run/decode_runner.h).
  const Block& block(int index) const { return *blocks_[size_t(index)]; }
  const Weight& embedding() const { return embedding_; }
  const Weight& position_table() const { return position_table_; }
  const Weight& head_weight() const { return config().tied_head ? embedding_ : head_; }
  const Norm& final_norm() const { return *final_norm_; }
  const RotaryTable* rotary_table(int64_t head_dim) const;  // null for learned positions

 private:
  Model();
  void forget_prefetched();
  Status check_vocabulary(const Tensor& ids) const;
  struct Positions;  // rotary tables, or nothing
  std::shared_ptr<const WeightSource> source_;
  Device device_;
  ModelDescription description_;
  Weight embedding_, position_table_, head_;
  std::unique_ptr<Norm> final_norm_;
  bool embedding_wanted_ = false;  // a tied head keeps the embedding alive after drop_embedding()
  bool has_prefetched_ = false;    // named a block that may not have been taken
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unique_ptr<Positions> positions_;
};

}  // namespace pare
