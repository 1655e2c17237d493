// engine/tensor/decode_backend.h: the operations of one decode step, fused so that a block of a model is a
// handful of kernels, and the replay of a recorded step.
//
// A step runs the next token of `rows` sequences, 1 to kDecodeRows of them where products are fused. What
// changes from step to step (ids, positions, counters) is read from device memory, so that one recorded step
// serves every token. Unless said otherwise, pointers are device memory, activations are float and row r
// belongs to sequence r of the cache. Nothing allocates, synchronises or reads back but what says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "engine/tensor/backend.h"

namespace pare {

inline constexpr int64_t kDecodeRows = 16;  // rows of a fused product at most

// [out, in] of a product: dense and contiguous, or packed by the same backend.
struct DecodeMatrix {
  const void* dense = nullptr;
  DType dtype = DType::f32;              // of dense: f32, bf16 or f16
  const PackedMatrix* packed = nullptr;  // instead of dense
  const float* bias = nullptr;           // [out] or null
  int64_t out = 0, in = 0;
};

// What rows go through before a product.
struct DecodeNorm {
  enum class Kind : uint8_t { none, rms, rms_plus_one, layer };
  Kind kind = Kind::none;
  const float* gain = nullptr;  // [in]
  const float* bias = nullptr;  // [in] or null; layer only
  float eps = 0.0f;
};

struct DecodeRowsIn {
  const float* x;  // [rows, in]
  int64_t rows, stride;
  DecodeNorm norm;
};

// hidden[r, :] = scale * table[ids[r], :] + position_table[positions[r], :]
struct DecodeEmbedArgs {
  const int32_t* ids;        // [rows], below the rows of the table
  const int32_t* positions;  // [rows]; read when there is a position table
  const void* table;         // [.., channels]; null: what hidden holds stays in its place
  DType table_dtype;
  const void* position_table;  // row of position 0; null: none
  DType position_dtype;
  float* hidden;  // [rows, channels]
  int64_t rows, channels;
  float scale;
};

// Keys and values of one block, as BlockCache holds them.
struct DecodeCache {
  void* keys = nullptr;  // [sequences, kv_heads, capacity, head_dim] of dtype, or codes [.., row_bytes]
  void* values = nullptr;
  DType dtype = DType::f32;  // f32 or bf16
  int64_t capacity = 0;
  KvQuant kv = {};
  uint16_t* key_scales = nullptr;  // f16 [sequences, kv_heads, capacity]
  uint16_t* value_scales = nullptr;
  uint8_t* key_zeros = nullptr;  // null but for int4
  uint8_t* value_zeros = nullptr;
};

// Heads of the new tokens: norms over each query and key head, rotation by position (as RotaryArgs), keys and
// values to their place in the cache. Queries stay where they are.
struct DecodeHeadsArgs {
  float* qkv;  // [rows, (heads + 2 kv_heads) * head_dim], contiguous: queries, keys, values; keys and values
               // are undefined afterwards
  int64_t rows, heads, kv_heads, head_dim;
  DecodeNorm::Kind norm;  // none, rms or rms_plus_one
  const float* query_gain;
  const float* key_gain;  // [head_dim]
  float eps;
  const float* cosines;  // [positions, rotary_dim / 2]; null: no rotation
  const float* sines;
  int64_t rotary_dim;
  const int32_t* positions;  // [rows], below capacity
  DecodeCache cache;
};

// qkv = norm(x) * W^T + bias, then what DecodeHeadsArgs says. One matrix of all rows, or queries, keys and
// values apart.
struct DecodeQkvArgs {
  DecodeRowsIn in;
  DecodeMatrix matrices[3];
  int matrix_count;
  DecodeHeadsArgs heads;
  int32_t* counters;  // [decode_counters] zeros, and zeros again afterwards
};

// out[r, h, :] = softmax over positions 0 .. positions[r] of scale * <q, k>, times v; as AttentionArgs.
struct DecodeAttentionArgs {
  const float* q;  // [rows, heads * head_dim], row stride q_stride
  float* out;      // [rows, heads * head_dim], contiguous; not q
  const int32_t* positions;
  DecodeCache cache;
  int64_t rows, heads, kv_heads, head_dim, q_stride;
  int64_t longest;  // no position is beyond longest - 1; <= capacity
  float scale, softcap;
  int64_t window;
};

// out[r, n] (+)= f(norm(x) * W^T + bias)
struct DecodeProductArgs {
  DecodeRowsIn in;
  DecodeMatrix matrix;
  float* out;  // [rows, out], row stride out_stride; not x
  int64_t out_stride;
  bool accumulate;
  Activation activation;
};

// out[r, n] = f(norm(x) * gate^T + bias) * (norm(x) * up^T + bias)
struct DecodeGatedArgs {
  DecodeRowsIn in;
  DecodeMatrix gate, up;  // of the same shape
  float* out;
  int64_t out_stride;
  Activation activation;
};

// How the next id of a row is drawn: sampler.h of engine/run.
struct DecodeSampling {
  float temperature = 0.0f;  // 0: greedy
  float repetition_penalty = 1.0f;
  double top_p = 1.0, min_p = 0.0;
  int64_t top_k = 0;         // 0: off
  uint32_t key[2] = {0, 0};  // of the random numbers: (seed, stream) as in engine/core/random.h
};

// What stands in the place of an id that cannot be chosen.
enum DecodeFault : int32_t { kDecodeNan = -1, kDecodeInfinity = -2, kDecodeNothing = -3 };

// What a step hands to the next. Every array has one element per row unless it says more.
struct DecodeState {
  int32_t* ids;        // to run next
  int32_t* positions;  // of those
  int32_t* draws;      // ids chosen so far: the number of the draw, and where it goes in the ring
  uint32_t* seen;      // [rows, words]: bit i of row r: id i stands in its history. May be null
  DecodeSampling* sampling;
  int32_t* ring;  // memory of pinned(): [slots, ring_stride]
  int64_t rows, words, slots, ring_stride;
  int32_t last_position;  // positions stop there
};

// Chooses the next id of each row from its logits: penalty on ids seen, temperature, top-k, top-p, min-p,
// softmax, draw, in the order of engine/run/sampler.h; ties go to the smallest id. Shares of probability are
// counted in integers of 2^-40 of the largest, so that the result depends on no order of summation. A NaN
// comes before an infinity (after the penalty), that before nothing finite at all. Then
//   ids[r] = id (0 for a fault), seen gets it, ring[draws % slots][r] = id or the fault,
//   draws += 1, and positions += 1 where advance is set, up to last_position.
struct DecodeChooseArgs {
  const float* logits;  // [rows, columns], contiguous
  int64_t columns;
  DecodeState state;
  bool advance;
  bool is_greedy;   // no row has a temperature: known when the step is recorded
  void* workspace;  // choose_workspace_bytes() bytes
};

// A recorded step. Keeps all memory of the backend that it uses; destroying it waits for its last launch.
class DecodeGraph {
 public:
  virtual ~DecodeGraph() = default;
  // Of one launch: every node of the recording, so kernels of libraries, copies and fills count too.
  virtual int64_t kernels() const = 0;
};

// Memory of the host that the device writes to by itself.
class DecodePinned {
 public:
  virtual ~DecodePinned() = default;
  virtual int32_t* data() const = 0;
};

class DecodeBackend {
 public:
  virtual ~DecodeBackend() = default;

  // Why products of `rows` rows with these matrices (of the same in) are not fused; empty: they are. All rows
  // of `x` are then normalised and multiplied in one kernel.
  virtual std::string why_not_fused(const DecodeMatrix* matrices, int count, int64_t rows) const = 0;

  virtual void embed(const DecodeEmbedArgs&) = 0;
  virtual void heads(const DecodeHeadsArgs&) = 0;  // any number of rows
  virtual void qkv(const DecodeQkvArgs&) = 0;
  virtual void attention(const DecodeAttentionArgs&) = 0;  // any number of rows
  virtual void product(const DecodeProductArgs&) = 0;
  virtual void gated(const DecodeGatedArgs&) = 0;
  virtual void choose(const DecodeChooseArgs&) = 0;  // any number of rows

  virtual size_t choose_workspace_bytes(int64_t rows, int64_t columns) const = 0;

  // Between these, operations of this backend and of its Backend are recorded instead of run. Every operation
  // must have run before with the same shapes, since a recording allocates nothing. Exit 6.
  virtual Status begin_capture() = 0;
  virtual Result<std::unique_ptr<DecodeGraph>> end_capture() = 0;
  virtual Status launch(DecodeGraph& graph) = 0;

  // `count` numbers of the host that choose() writes to. Exit 6.
  virtual Result<std::unique_ptr<DecodePinned>> pinned(int64_t count) = 0;
  // mark(): everything asked so far gets a number, one more than the last. wait() returns when all up to that
  // number is done; for one that is kDecodeMarks or more back, when a later one is. Exit 6 for what broke
  // off.
  virtual Status mark(int64_t number) = 0;
  virtual Status wait(int64_t number) = 0;
};

inline constexpr int64_t kDecodeMarks = 4;
// Counters of DecodeQkvArgs: one per head and value head.
inline int64_t decode_counters(int64_t heads, int64_t kv_heads) {
  return heads + 2 * kv_heads;
}

}  // namespace pare
