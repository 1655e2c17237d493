// engine/backends/cuda/packed_fragments.cuh: from pieces of the layout "cuda-fragments"
// (packed_layout_cuda.h) to fragments of tensor cores, or to floats.
//
// Operands are exact: code - zero point is an integer of at most 8 bits and a sign, which bf16 holds. Scales
// are applied in float to the sums of a group, so the one rounding of a product is that of its input to bf16
// (and of codebook values). Minimums meet the sums of inputs, which another fragment of ones adds up.
#pragma once

#include "engine/backends/cuda/kernel.h"
#include "engine/backends/cuda/packed_fragments.h"

namespace pare::cuda {

constexpr uint32_t kBf16Ones = 0x3f803f80u;

// One 16-bit float of either type.
__device__ __forceinline__ float half_bits_to_float(uint32_t bits, ScaleType type) {
  if (type == ScaleType::bf16) return __uint_as_float(bits << 16);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// Group of the layout that holds step `step` (of 16 columns, counted along the row): step / steps per group,
// exact while the product of both is below 2^32.
__device__ __forceinline__ int group_of_step(const FragmentMatrix& w, int step) {
  return w.group_reciprocal == 0 ? step : int(__umulhi(unsigned(step), w.group_reciprocal));
}

// Rows g and g + 8 of a tile and group in an array [tiles, groups, 16] of scales or minimums, as stored: a
// pair of halves, or (Wide) two floats.
template <bool Wide>
struct RowPair {
  uint32_t words[Wide ? 2 : 1];
};
template <bool Wide>
__device__ __forceinline__ RowPair<Wide> load_row_pair(const void* array, int64_t at) {
  if constexpr (Wide) {
    const uint2 both = static_cast<const uint2*>(array)[at];
    return {{both.x, both.y}};
  } else {
    return {{static_cast<const uint32_t*>(array)[at]}};
  }
}
template <bool Wide>
__device__ __forceinline__ float2 floats_of(const RowPair<Wide>& pair, ScaleType type) {
  if constexpr (Wide) {
    return make_float2(__uint_as_float(pair.words[0]), __uint_as_float(pair.words[1]));
  } else {
    return make_float2(half_bits_to_float(pair.words[0] & 0xffff, type),
                       half_bits_to_float(pair.words[0] >> 16, type));
  }
}

// The grids of rows g and g + 8 of a tile in one group as they are stored, so that they can be fetched early
// in few registers. Wide: scales are floats.
template <bool Wide>
struct RawGrid {
  RowPair<Wide> scale, offset;  // offset: the pair of zero points (u8), or of minimums
};
template <bool Wide>
__device__ __forceinline__ RawGrid<Wide> load_grid(const FragmentMatrix& w, int tile, int group, int g) {
  RawGrid<Wide> raw;
  const int64_t at = (int64_t(tile) * w.groups + group) * 8 + g;
  raw.scale = load_row_pair<Wide>(w.scales, at);
  raw.offset.words[0] = uint32_t(w.zero) * 0x101u;
  if (w.offset == GridOffset::zero_point) raw.offset.words[0] = static_cast<const uint16_t*>(w.offsets)[at];
  if (w.offset == GridOffset::minimum) raw.offset = load_row_pair<Wide>(w.offsets, at);
  return raw;
}
template <bool Wide>
__device__ __forceinline__ uint32_t zeros_of(const FragmentMatrix& w, const RawGrid<Wide>& raw) {
  return w.offset == GridOffset::minimum ? 0u : raw.offset.words[0];
}

__device__ __forceinline__ uint32_t sub_bf16x2(uint32_t a, uint32_t b) {
  const __nv_bfloat162 difference =
      __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&a), *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const uint32_t*>(&difference);
}
__device__ __forceinline__ uint32_t mul_bf16x2(uint32_t a, uint32_t b) {
  const __nv_bfloat162 product =
      __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&a), *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const uint32_t*>(&product);
}

// What is subtracted from both halves of a register of row g (index 0) or g + 8 (index 1).
struct Bias {
  uint32_t row[2];
};
// Codes of up to 7 bits: 0x4300 | code is 128 + code in bf16; the same with the zero point comes off exactly.
__device__ __forceinline__ Bias small_bias(uint32_t zeros) {
  return {{0x43004300u | (zeros & 0xff) * 0x10001u, 0x43004300u | (zeros >> 8 & 0xff) * 0x10001u}};
}
// Codes of 8 bits: 0x4b000000 | code is 2^23 + code in float.
__device__ __forceinline__ Bias byte_bias(uint32_t zeros) {
  return {{0x4b000000u | (zeros & 0xff), 0x4b000000u | (zeros >> 8 & 0xff)}};
}

// Bits 16 i .. 16 i + 15 of both halves: (a & b) | c in one instruction.
__device__ __forceinline__ uint32_t mask_or(uint32_t word, uint32_t mask, uint32_t constant) {
  return ptx::lop3<(0xf0 & 0xcc) | 0xaa>(word, mask, constant);
}

// Each format: the words that a lane has per block, how they are loaded, and the A fragment of a step.
struct Int4Format {
  static constexpr int kWords = 4;
  static constexpr int kChunkBlocks =
      chunk_blocks(FragmentFormat::w4);  // that a warp of packed_vector loads at once
  struct Table {};
  static __device__ __forceinline__ Table load_table(const FragmentMatrix&) { return {}; }
  static __device__ __forceinline__ void load(const FragmentMatrix&, const unsigned char* tile, int block,
                                              int lane, uint32_t (&words)[kWords]) {
    const uint4 piece = ptx::load_once(tile + int64_t(block) * kPieceBytes + lane * 16);
    words[0] = piece.x, words[1] = piece.y, words[2] = piece.z, words[3] = piece.w;
  }
  // Pieces of two blocks that a block of threads keeps in shared memory, and the words of one of the two
  // there.
  static constexpr int kStagedPieces = 2;
  static __device__ __forceinline__ const unsigned char* piece(const FragmentMatrix& w,
                                                               const unsigned char* tile, int first_block,
                                                               int index) {
    const int block = first_block + index;
    return block < w.blocks ? tile + int64_t(block) * kPieceBytes : nullptr;
  }
  static __device__ __forceinline__ void load_staged(const FragmentMatrix&, const unsigned char* staged,
                                                     int block, int lane, uint32_t (&words)[kWords]) {
    const uint4 at = *reinterpret_cast<const uint4*>(staged + block % 2 * kPieceBytes + lane * 16);
    words[0] = at.x, words[1] = at.y, words[2] = at.z, words[3] = at.w;
  }
  static __device__ __forceinline__ Bias bias(const FragmentMatrix&, uint32_t zeros) {
    return small_bias(zeros);
  }
  static __device__ __forceinline__ void fragment(const FragmentMatrix&, const Table&,
                                                  const uint32_t (&words)[kWords], int step, const Bias& bias,
                                                  uint32_t (&a)[4]) {
#pragma unroll
    for (int r = 0; r < 4; ++r)
      a[r] = sub_bf16x2(mask_or(words[step] >> (4 * r), 0x000f000fu, 0x43004300u), bias.row[r % 2]);
  }
};

struct Int8Format {
  static constexpr int kWords = 8;
  static constexpr int kChunkBlocks = chunk_blocks(FragmentFormat::w8);
  struct Table {};
  static __device__ __forceinline__ Table load_table(const FragmentMatrix&) { return {}; }
  static __device__ __forceinline__ void load(const FragmentMatrix&, const unsigned char* tile, int block,
                                              int lane, uint32_t (&words)[kWords]) {
    const unsigned char* at = tile + int64_t(block) * (2 * kPieceBytes) + lane * 16;
    const uint4 first = ptx::load_once(at), second = ptx::load_once(at + kPieceBytes);
    words[0] = first.x, words[1] = first.y, words[2] = first.z, words[3] = first.w;
    words[4] = second.x, words[5] = second.y, words[6] = second.z, words[7] = second.w;
  }
  static constexpr int kStagedPieces = 4;
  static __device__ __forceinline__ const unsigned char* piece(const FragmentMatrix& w,
                                                               const unsigned char* tile, int first_block,
                                                               int index) {
    const int block = first_block + index / 2;
    return block < w.blocks ? tile + (int64_t(block) * 2 + index % 2) * kPieceBytes : nullptr;
  }
  static __device__ __forceinline__ void load_staged(const FragmentMatrix&, const unsigned char* staged,
                                                     int block, int lane, uint32_t (&words)[kWords]) {
    const auto* at = reinterpret_cast<const uint4*>(staged + block % 2 * (2 * kPieceBytes) + lane * 16);
    const uint4 first = at[0], second = at[kPieceBytes / 16];
    words[0] = first.x, words[1] = first.y, words[2] = first.z, words[3] = first.w;
    words[4] = second.x, words[5] = second.y, words[6] = second.z, words[7] = second.w;
  }
  static __device__ __forceinline__ Bias bias(const FragmentMatrix&, uint32_t zeros) {
    return byte_bias(zeros);
  }
  // Two codes at bytes `low` and `low` + 2 of a word.
  static __device__ __forceinline__ uint32_t pair(uint32_t word, int low, uint32_t bias) {
    const float first =
        __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7540u + low)) - __uint_as_float(bias);
    const float second =
        __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7542u + low)) - __uint_as_float(bias);
    // at most 8 bits and a sign: the low halves are zero
    return __byte_perm(__float_as_uint(first), __float_as_uint(second), 0x7632u);
  }
  static __device__ __forceinline__ void fragment(const FragmentMatrix&, const Table&,
                                                  const uint32_t (&words)[kWords], int step, const Bias& bias,
                                                  uint32_t (&a)[4]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) a[r] = pair(words[2 * step + r / 2], r % 2, bias.row[r % 2]);
  }
};

// Codebooks of 16 values rounded to bf16, their low and high bytes in registers: a byte permutation looks up
// four codes at once.
struct Codebook4Format {
  static constexpr int kWords = 4;
  static constexpr int kChunkBlocks = chunk_blocks(FragmentFormat::codebook4);
  struct Table {
    uint32_t low[4], high[4];  // bytes of values 4 i .. 4 i + 3
  };
  static __device__ __forceinline__ Table load_table(const FragmentMatrix& w) {
    Table table;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t first = pack_bf16(w.table[4 * i], w.table[4 * i + 1]);
      const uint32_t second = pack_bf16(w.table[4 * i + 2], w.table[4 * i + 3]);
      table.low[i] = __byte_perm(first, second, 0x6420u);
      table.high[i] = __byte_perm(first, second, 0x7531u);
    }
    return table;
  }
  static __device__ __forceinline__ void load(const FragmentMatrix& w, const unsigned char* tile, int block,
                                              int lane, uint32_t (&words)[kWords]) {
    Int4Format::load(w, tile, block, lane, words);
  }
  static __device__ __forceinline__ Bias bias(const FragmentMatrix&, uint32_t) {
    return {};
  }
  // Bytes of four codes (nibbles of the low half of `codes`).
  static __device__ __forceinline__ uint32_t look_up(const uint32_t (&bytes)[4], uint32_t codes) {
    const uint32_t index = codes & 0x7777u, half = 0x3210u | (codes >> 1 & 0x4444u);
    return __byte_perm(__byte_perm(bytes[0], bytes[1], index), __byte_perm(bytes[2], bytes[3], index), half);
  }
  static __device__ __forceinline__ void fragment(const FragmentMatrix&, const Table& table,
                                                  const uint32_t (&words)[kWords], int step, const Bias&,
                                                  uint32_t (&a)[4]) {
    const uint32_t word = words[step];
    const uint32_t low[2] = {look_up(table.low, word), look_up(table.low, word >> 16)};
    const uint32_t high[2] = {look_up(table.high, word), look_up(table.high, word >> 16)};
#pragma unroll
    for (int r = 0; r < 4; r += 2) {
      // two codes of the even columns, two of the odd ones
      const uint32_t even = __byte_perm(low[0], high[0], r == 0 ? 0x5140u : 0x7362u);
      const uint32_t odd = __byte_perm(low[1], high[1], r == 0 ? 0x5140u : 0x7362u);
      a[r] = __byte_perm(even, odd, 0x5410u);
      a[r + 1] = __byte_perm(even, odd, 0x7632u);
    }
  }
};

// Two codes as halves of a word, from all planes. `words` is what AnyFormat::load brought.
__device__ __forceinline__ uint32_t any_pair(int bits, const uint32_t (&words)[8], int step, int r) {
  if (bits == 8) return words[2 * step + r / 2] >> (r % 2 * 8) & 0x00ff00ffu;
  uint32_t codes = 0;
  int shift = 0;
  if ((bits & 4) != 0) {
    codes = words[step] >> (4 * r) & 0x000f000fu;
    shift = 4;
  }
  if ((bits & 2) != 0) {
    codes |= (words[4 + step / 2] >> (2 * (step % 2 * 4 + r)) & 0x00030003u) << shift;
    shift += 2;
  }
  if ((bits & 1) != 0) codes |= (words[6] >> (4 * step + r) & 0x00010001u) << shift;
  return codes;
}

// Every scheme, decided at run time (by the same branch in all threads).
struct AnyFormat {
  static constexpr int kWords = 8;  // 8 of bytes; or 4, 2 and 1 of the planes
  static constexpr int kChunkBlocks = chunk_blocks(FragmentFormat::any);
  struct Table {};
  static __device__ __forceinline__ Table load_table(const FragmentMatrix&) { return {}; }
  static __device__ __forceinline__ void load(const FragmentMatrix& w, const unsigned char* tile, int block,
                                              int lane, uint32_t (&words)[kWords]) {
    if (w.bits == 8) return Int8Format::load(w, tile, block, lane, words);
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = 0;
    if ((w.bits & 4) != 0) {
      const uint4 piece = ptx::load_once(tile + int64_t(block) * kPieceBytes + lane * 16);
      words[0] = piece.x, words[1] = piece.y, words[2] = piece.z, words[3] = piece.w;
    }
    if ((w.bits & 2) != 0) {
      const unsigned char* at = tile + w.offset_of_2 + int64_t(block / 2) * kPieceBytes + lane * 16;
      const uint2 half = *reinterpret_cast<const uint2*>(at + block % 2 * 8);
      words[4] = half.x, words[5] = half.y;
    }
    if ((w.bits & 1) != 0) {
      const unsigned char* at = tile + w.offset_of_1 + int64_t(block / 4) * kPieceBytes + lane * 16;
      words[6] = *reinterpret_cast<const uint32_t*>(at + block % 4 * 4);
    }
  }
  static constexpr int kStagedPieces = 4;  // two of bytes or of 4 bits each; one of 2 bits, one of 1
  static __device__ __forceinline__ const unsigned char* piece(const FragmentMatrix& w,
                                                               const unsigned char* tile, int first_block,
                                                               int index) {
    if (w.bits == 8) return Int8Format::piece(w, tile, first_block, index);
    if (index < 2) return (w.bits & 4) != 0 ? Int4Format::piece(w, tile, first_block, index) : nullptr;
    if (index == 2)
      return (w.bits & 2) != 0 ? tile + w.offset_of_2 + int64_t(first_block / 2) * kPieceBytes : nullptr;
    return (w.bits & 1) != 0 ? tile + w.offset_of_1 + int64_t(first_block / 4) * kPieceBytes : nullptr;
  }
  static __device__ __forceinline__ void load_staged(const FragmentMatrix& w, const unsigned char* staged,
                                                     int block, int lane, uint32_t (&words)[kWords]) {
    if (w.bits == 8) return Int8Format::load_staged(w, staged, block, lane, words);
    const uint4 four = *reinterpret_cast<const uint4*>(staged + block % 2 * kPieceBytes + lane * 16);
    words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
    const unsigned char* rest = staged + 2 * kPieceBytes + lane * 16;
    const uint2 two = *reinterpret_cast<const uint2*>(rest + block % 2 * 8);
    words[4] = two.x, words[5] = two.y;
    words[6] = *reinterpret_cast<const uint32_t*>(rest + kPieceBytes + block % 4 * 4);
    words[7] = 0;
  }
  static __device__ __forceinline__ Bias bias(const FragmentMatrix& w, uint32_t zeros) {
    return w.bits == 8 ? byte_bias(zeros) : small_bias(zeros);
  }
  static __device__ __forceinline__ uint32_t value_pair(const FragmentMatrix& w, uint32_t codes,
                                                        uint32_t bias) {
    switch (w.kind) {
      case CodeKind::integer:
        if (w.bits == 8) return Int8Format::pair(codes, 0, bias);
        return sub_bf16x2(codes | 0x43004300u, bias);
      case CodeKind::e4m3:  // exponent and mantissa in place; the missing 2^120 by a product, exact
        return mul_bf16x2((codes & 0x007f007fu) << 4 | (codes & 0x00800080u) << 8, 0x7b807b80u);
      case CodeKind::e5m2:
        return mul_bf16x2((codes & 0x007f007fu) << 5 | (codes & 0x00800080u) << 8, 0x77807780u);
      case CodeKind::codebook:
        break;
    }
    return pack_bf16(w.table[codes & 0xff], w.table[codes >> 16]);
  }
  static __device__ __forceinline__ void fragment(const FragmentMatrix& w, const Table&,
                                                  const uint32_t (&words)[kWords], int step, const Bias& bias,
                                                  uint32_t (&a)[4]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) a[r] = value_pair(w, any_pair(w.bits, words, step, r), bias.row[r % 2]);
  }
};

// What a code stands for before the scale, in float: exact.
__device__ __forceinline__ float code_value(const FragmentMatrix& w, uint32_t code, uint32_t zero) {
  switch (w.kind) {
    case CodeKind::integer:
      return float(int(code) - int(zero));
    case CodeKind::e4m3:
      return __uint_as_float((code & 0x7f) << 20 | (code & 0x80) << 24) * 0x1p120f;
    case CodeKind::e5m2:
      return __uint_as_float((code & 0x7f) << 21 | (code & 0x80) << 24) * 0x1p112f;
    case CodeKind::codebook:
      break;
  }
  return w.table[code];
}

// The grid of one row, for kernels that make floats of codes: each step is rounded as QuantizedTensor
// defines.
struct FloatGrid {
  float scale, minimum;
  uint32_t zero;

  __device__ __forceinline__ float weight(const FragmentMatrix& w, uint32_t code) const {
    const float value = __fmul_rn(scale, code_value(w, code, zero));
    return w.offset == GridOffset::minimum ? __fadd_rn(minimum, value) : value;
  }
};
// Row g + 8 half of a tile.
__device__ __forceinline__ FloatGrid float_grid(const FragmentMatrix& w, int tile, int group, int g,
                                                int half) {
  const int64_t at = (int64_t(tile) * w.groups + group) * kTileRows + g * 2 + half;
  const auto element = [&](const void* array) {
    return w.scale_type == ScaleType::f32
               ? static_cast<const float*>(array)[at]
               : half_bits_to_float(static_cast<const uint16_t*>(array)[at], w.scale_type);
  };
  FloatGrid grid{.scale = element(w.scales), .minimum = 0.0f, .zero = uint32_t(w.zero)};
  if (w.offset == GridOffset::zero_point) grid.zero = static_cast<const uint8_t*>(w.offsets)[at];
  if (w.offset == GridOffset::minimum) grid.minimum = element(w.offsets);
  return grid;
}

}  // namespace pare::cuda
