// engine/backends/cuda/attention_plan.h: which kernel serves an attention, and how it is cut into blocks.
// Follows from shapes alone; includes nothing of CUDA.
//
// A unit is one key/value head of one sequence. Its rows are (query position, head in the group), position
// first, so that the heads of a group share every key and value that is loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "engine/backends/cuda/math_mode.h"
#include "engine/tensor/training_backend.h"

namespace pare::cuda {

// How keys and values are stored.
enum class KvForm : uint8_t { f32, bf16, int8, int4 };
KvForm kv_form(const AttentionArgs& args);

enum class AttentionKernel : uint8_t {
  decode,   // tensor cores, the keys of a unit over several blocks: few query tokens
  prefill,  // tensor cores, one block per tile of rows
  exact,    // float products; takes everything
};

// A row of the table: the first one that supports a call serves it.
struct AttentionKernelRow {
  AttentionKernel kernel;
  const char* name;
  const char* takes;  // in words
  bool (*supports)(const AttentionArgs&, MathMode);
};
std::span<const AttentionKernelRow> attention_kernels();
std::string describe_attention_kernels();  // the table, a line per row

// For tests and comparisons: this kernel serves every call that it supports, in this process; nullopt: the
// table.
void force_attention_kernel(std::optional<AttentionKernel> kernel);
AttentionKernel choose_attention_kernel(const AttentionArgs& args, MathMode math);

// Tile of the exact kernel: kExactRows rows by kExactKeys keys, kExactColumns or fewer columns of the output.
constexpr int kExactRows = 64, kExactKeys = 64, kExactThreads = 256;
// Threads of the tensor core kernels: 4 warps.
constexpr int kTensorThreads = 128;
// Keys of a tile. With 96 or 128 columns of the output for 32 rows in registers there is room for the scores
// of 32 keys.
constexpr int prefill_keys(int padded_head_dim) {
  return padded_head_dim == 96 || padded_head_dim == 128 ? 32 : 64;
}
constexpr int prefill_rows(int padded_head_dim) {
  return padded_head_dim <= 128 ? 128 : 64;
}
constexpr int kDecodeTokens = 16;  // most query tokens of the decode kernel
constexpr int kDecodeStep = 16;    // keys of a warp at a time
constexpr int64_t kTensorHeadDim = 256;

struct AttentionPlan {
  AttentionKernel kernel;
  int padded_head_dim;  // columns of the kernel's tiles
  int tile_rows;
  int64_t units;         // sequences * kv_heads
  int64_t rows;          // of a unit
  int64_t row_tiles;     // of a unit
  int64_t column_tiles;  // exact: blocks per row tile, each with its columns of the output
  int64_t splits;        // decode: blocks per row tile, each with its share of the keys
  size_t shared_bytes;
  // prefill: keys and values are first written as bf16, [units_per_pass, key_tokens, padded_head_dim] each,
  // unless they already are in that form; longer jobs go in several passes over the same memory.
  bool converts;
  int64_t units_per_pass;
  size_t scratch_bytes;
  int64_t blocks() const { return (converts ? units_per_pass : units) * row_tiles * column_tiles * splits; }
};
AttentionPlan plan_attention(const AttentionArgs& args, AttentionKernel kernel, int multiprocessors);

// Whether rows of bf16 keys and values can be copied to shared memory as they are: pieces of 16 bytes.
bool keys_are_copyable(const AttentionArgs& args);

struct AttentionBackwardPlan {
  bool is_tensor;       // false: float products
  int padded_head_dim;  // tensor: columns of the bf16 copies
  int64_t units, rows;
  int64_t key_tiles, row_tiles;  // of a unit
  int64_t column_tiles;          // float products: blocks per tile, each with its columns of the gradients
  int64_t units_per_pass;
  size_t pass_unit_bytes;  // scratch of one unit
  size_t scratch_bytes;
};
AttentionBackwardPlan plan_attention_backward(const AttentionBackwardArgs& args, MathMode math);

}  // namespace pare::cuda
