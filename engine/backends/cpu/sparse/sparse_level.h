// engine/backends/cpu/sparse/sparse_level.h: the sparse kernels of one instruction set, as raw-pointer
// functions.
//
// The bodies are templates over a small vector class (of_four_body.h, masked_body.h); each isa_<level>.cpp
// instantiates them. Nothing here allocates, and nothing depends on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pare::cpu {

// Two families, each with values (f32, bf16, f16) or codes of a byte or half a byte. In both a tile is a
// number of consecutive output rows, one per vector lane, and its bytes are read once and in order.
//
// of_four: n of each four consecutive inputs are kept (n = 1, 2; 3 saves too little to be worth its code). A
// tile is `width` rows. Slots of a step (kStepColumns[n] inputs) lie together: first one 32-bit word per row
// with the positions, 2 bits per slot, low bits first, then the slots one after the other, rows side by side.
// Slot s belongs to inputs 4 (s / n) .. + 3 of the step. A kernel loads these four activations once for all
// rows and picks one per row with a permutation: nothing is ever expanded. Steps start anew with every group
// of scales; what a group or the end of a row leaves empty has value 0.
//   f32    a slot is `width` floats
//   bf16   two slots are `width` words: even slot low, odd slot high half
//   f16    a slot is `width` halves
//   byte   a slot is `width` bytes
//   nibble eight slots are `width` words, low bits first
//
// masked: any weights are kept. A tile is rows_per_vector * width rows (2 for values, 4 for codes). It is cut
// into blocks of 64 inputs; a block is its masks, one bit per row for each input, then the kept values, input
// by input, in the order of the bits. nibble: every input starts on a byte. Bit p stands for row
// p % interleave * (rows / interleave) + p / interleave of the tile; interleave is what the kernel finds
// convenient.
//
// Codes are two's complement (code - 2^(bits-1)); a weight is scale * (code - zero). Zero points are stored
// the same way. Removed weights have no slot; a kernel adds exactly nothing for them.
enum class SparseForm : uint8_t {
  of_four_f32,
  of_four_bf16,
  of_four_f16,
  of_four_byte,
  of_four_nibble,
  masked_f32,
  masked_bf16,
  masked_f16,
  masked_byte,
  masked_nibble,
};
constexpr int kSparseForms = 10;
constexpr bool is_masked(SparseForm form) {
  return form >= SparseForm::masked_f32;
}
constexpr bool has_codes(SparseForm form) {
  return form == SparseForm::of_four_byte || form == SparseForm::of_four_nibble ||
         form == SparseForm::masked_byte || form == SparseForm::masked_nibble;
}

constexpr int kStepColumns[3] = {0, 64, 32};  // inputs of a step, by n
constexpr int kMostOfFour = 2;                // largest n
constexpr int step_slots(int n) {
  return kStepColumns[n] / 4 * n;
}
constexpr int64_t kMaskedBlock = 64;  // inputs of a block of a masked tile
constexpr size_t kReadAhead = 64;     // bytes behind the last value that a kernel may load
constexpr int kMaxInterleave = 4;

struct SparseMatrix {
  const uint8_t* data;
  const int64_t* starts;            // masked: [tiles, blocks], offset of each block in data
  const void* scales;               // codes: [tiles, groups, rows of a tile], f16 or f32
  const int8_t* zeros;              // codes with zero points: [tiles, groups, rows of a tile], else null
  int64_t n, k;                     // logical shape
  int64_t blocks;                   // masked
  int64_t groups, group_width;      // of scales; one group without scales
  int64_t tile_bytes, group_bytes;  // of_four
  bool half_scales;
};

// Tiles [begin, end) of a product with few activation rows.
struct SparseGemv {
  const SparseMatrix* weight;
  const float* x;     // [m, k]
  const float* bias;  // [n] or null
  float* out;         // [m, n]
  int64_t m, x_stride, out_stride;
  int64_t begin, end;
  bool accumulate;
};

using SparseGemvFunction = void (*)(const SparseGemv&);
// Inputs [k0, k0 + kc) of output rows [n0, n0 + 2 * width) as floats to panel [kc, 2 * width]; n0 is a
// multiple of 2 * width, k0 of 16. Rows behind the end are zero.
using SparseExpandFunction = void (*)(const SparseMatrix&, int64_t n0, int64_t k0, int64_t kc, float* panel);

struct SparseKernels {
  const char* name;  // "avx512 vbmi2"
  int width;         // floats of a vector
  // By form; of_four by n - 1, masked always at 0.
  SparseGemvFunction gemv[kSparseForms][kMostOfFour];
  SparseExpandFunction expand[kSparseForms][kMostOfFour];
  int interleave[kSparseForms];  // masked
};

namespace sparse_generic {
extern const SparseKernels kKernels;
}
namespace sparse_avx2 {
extern const SparseKernels kKernels;
}
namespace sparse_avx512 {
extern const SparseKernels kKernels;
}
namespace sparse_avx512_vbmi2 {
extern const SparseKernels kKernels;
}

}  // namespace pare::cpu
