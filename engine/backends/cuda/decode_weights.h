// engine/backends/cuda/decode_weights.h: matrices as operand A of mma.m16n8k16 for fused products: tiles of
// 16 outputs, blocks of 64 columns, straight from global memory to fragments in registers.
//
// A kind of weights has
//   Half, kAhead      type of the operands; blocks that a warp keeps under way, half of them per matrix of a
//   pair Raw               what a lane loads of one block place(q)          where the q-th four columns of a
//   block stand in the staged inputs (decode_rows.h) Cursor            set(part, tile), then load(part,
//   block) consume(raw, part, x, acc)   acc += block times inputs; x: the staged inputs of 8 rows per tile
// Lane l holds outputs g = l / 4 and g + 8, and input row g of the B operand.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "engine/backends/cuda/kernel.h"
#include "engine/tensor/backend.h"

namespace pare::cuda {

enum class ScaleKind : uint8_t { f16, bf16 };

// One matrix of a product; packed ones are in the layout of packed_layout_cuda.h.
struct ProductPart {
  const unsigned char* weight;
  const unsigned char* scales;   // [tiles, groups, 16] or null
  const unsigned char* offsets;  // zero points u8, the same order; null: `zero` for all
  int64_t row_bytes;             // dense
  int64_t tile_bytes;            // packed
  int groups, group_shift;       // columns of a group: 2^group_shift
  int zero;
  ScaleKind scale_kind;
  const float* bias;
  int out, in;
  int first_tile, first_column;  // in the product
};

// Staged inputs of 16 columns per step: words of steps 2 h and 2 h + 1 stand together.
struct InputBlock {
  uint4 half[2];
  __device__ __forceinline__ void fragment(int step, uint32_t (&b)[2]) const {
    const uint4& words = half[step / 2];
    b[0] = step % 2 == 0 ? words.x : words.z;
    b[1] = step % 2 == 0 ? words.y : words.w;
  }
};

__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                         __nv_bfloat16) {
  ptx::mma_bf16(d, a, b);
}
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                         __half) {
  ptx::mma_f16(d, a, b);
}

// Rows of bf16, f16 or f32 (rounded to bf16). A lane takes eight neighbours of every 32 columns, 16 bytes of
// 16-bit elements.
template <typename T>
struct DenseWeights {
  using Half = std::conditional_t<std::is_same_v<T, __half>, __half, __nv_bfloat16>;
  static constexpr int kAhead = sizeof(T) == 2 ? 2 : 1;
  static constexpr int kWords = int(sizeof(T)) / 2;  // 16-byte words per eight elements
  static __device__ __forceinline__ int place(int q) { return q % 8 / 2 * 4 + q / 8 * 2 + q % 2; }

  struct Raw {
    uint4 word[2][2][kWords];  // [output g or g + 8][half of the block]
  };
  struct Cursor {
    const unsigned char* row[2];
    __device__ __forceinline__ void set(const ProductPart& part, int tile) {
      const int lane = int(threadIdx.x) % 32;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int output = tile * 16 + lane / 4 + 8 * i;
        row[i] = output < part.out ? part.weight + int64_t(output) * part.row_bytes : nullptr;
      }
    }
    __device__ __forceinline__ Raw load(const ProductPart& part, int block) const {
      Raw raw;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int column = block * 64 + half * 32 + int(threadIdx.x) % 4 * 8;
          const bool is_there = row[i] != nullptr && column < part.in;
#pragma unroll
          for (int w = 0; w < kWords; ++w)
            raw.word[i][half][w] = is_there ? ptx::load_once(row[i] + int64_t(column) * sizeof(T) + 16 * w)
                                            : make_uint4(0, 0, 0, 0);
        }
      }
      return raw;
    }
  };

  // Two neighbours of a lane's eight, as a register of the fragment.
  static __device__ __forceinline__ uint32_t pair_of(const uint4 (&word)[kWords], int pair) {
    if constexpr (sizeof(T) == 2) {
      return pair == 0 ? word[0].x : pair == 1 ? word[0].y : pair == 2 ? word[0].z : word[0].w;
    } else {
      const uint4& four = word[pair / 2 % kWords];
      return pair % 2 == 0 ? pack_bf16(__uint_as_float(four.x), __uint_as_float(four.y))
                           : pack_bf16(__uint_as_float(four.z), __uint_as_float(four.w));
    }
  }
  template <int Tiles>
  static __device__ __forceinline__ void consume(const Raw& raw, const ProductPart&,
                                                 const InputBlock (&x)[Tiles], float (&acc)[Tiles][4]) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t a[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) a[r] = pair_of(raw.word[r % 2][step / 2], step % 2 * 2 + r / 2);
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) {
        uint32_t b[2];
        x[tile].fragment(step, b);
        multiply(acc[tile], a, b, Half());
      }
    }
  }
};

// Codes of 4 or 8 bits with a scale of 16 bits, and perhaps a zero point, per group of 32 columns (Scales = 2
// per block) or of 64 and more (1).
template <int Bits, int Scales>
struct CodeWeights {
  using Half = __nv_bfloat16;
  static constexpr int kAhead = Bits == 4 ? 4 : 2;
  static constexpr int kPieces = Bits / 4;  // of 16 bytes per lane and block
  static __device__ __forceinline__ int place(int q) { return q % 4 * 4 + q / 4; }

  struct Raw {
    uint4 codes[kPieces];
    uint32_t scales[Scales];  // of outputs g and g + 8
    uint32_t zeros;           // the same in bytes, of the second group above those of the first
  };
  struct Cursor {
    const unsigned char* codes;
    int first;  // place of this lane's scale and zero point in group 0 of the tile
    __device__ __forceinline__ void set(const ProductPart& part, int tile) {
      const int lane = int(threadIdx.x) % 32;
      codes = part.weight + int64_t(tile) * part.tile_bytes + lane * 16;
      first = tile * part.groups * 16 + lane / 4 * 2;
    }
    __device__ __forceinline__ Raw load(const ProductPart& part, int block) const {
      Raw raw;
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece)
        raw.codes[piece] = ptx::load_once(codes + (int64_t(block) * kPieces + piece) * 512);
      const int at = first + (Scales == 2 ? 2 * block : block * 64 >> part.group_shift) * 16;
#pragma unroll
      for (int i = 0; i < Scales; ++i)
        raw.scales[i] = *reinterpret_cast<const uint32_t*>(part.scales + int64_t(at + 16 * i) * 2);
      raw.zeros = uint32_t(part.zero) * 0x01010101u;
      if (part.offsets != nullptr) {
        raw.zeros = *reinterpret_cast<const uint16_t*>(part.offsets + at);
        if (Scales == 2)
          raw.zeros |= uint32_t(*reinterpret_cast<const uint16_t*>(part.offsets + at + 16)) << 16;
      }
      return raw;
    }
  };

  // A register of the fragment, zero point subtracted: whole numbers, exact in bf16.
  static __device__ __forceinline__ uint32_t fragment(const Raw& raw, int step, int r, uint32_t zero) {
    if constexpr (Bits == 4) {
      // 128 + code in each half, less 128 + zero
      const uint4& four = raw.codes[0];
      const uint32_t word = step == 0 ? four.x : step == 1 ? four.y : step == 2 ? four.z : four.w;
      const uint32_t biased = ptx::lop3<0xea>(word >> (4 * r), 0x000f000fu, 0x43004300u);
      const __nv_bfloat162 pair = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&biased),
                                          *reinterpret_cast<const __nv_bfloat162*>(&zero));
      return *reinterpret_cast<const uint32_t*>(&pair);
    } else {
      // 2^23 + code as floats, less 2^23 + zero
      const uint4& four = raw.codes[step / 2 % kPieces];
      const uint32_t word = step % 2 == 0 ? (r < 2 ? four.x : four.y) : (r < 2 ? four.z : four.w);
      const uint32_t low = __byte_perm(word, 0x4b000000u, r % 2 == 0 ? 0x7440 : 0x7441);
      const uint32_t high = __byte_perm(word, 0x4b000000u, r % 2 == 0 ? 0x7442 : 0x7443);
      const float base = __uint_as_float(0x4b000000u | zero);
      return pack_bf16(__uint_as_float(low) - base, __uint_as_float(high) - base);
    }
  }
  // What fragment() takes for a zero point in the low byte.
  static __device__ __forceinline__ uint32_t zero_operand(uint32_t zeros) {
    return Bits == 4 ? (0x4300u + (zeros & 0xff)) * 0x10001u : zeros & 0xff;
  }
  static __device__ __forceinline__ float scale_of(uint32_t bits, ScaleKind kind) {
    if (kind == ScaleKind::bf16) return __uint_as_float(bits << 16);
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits & 0xffff)));
  }

  template <int Tiles>
  static __device__ __forceinline__ void consume(const Raw& raw, const ProductPart& part,
                                                 const InputBlock (&x)[Tiles], float (&acc)[Tiles][4]) {
#pragma unroll
    for (int group = 0; group < Scales; ++group) {
      float sums[Tiles][4] = {};
      const uint32_t zeros[2] = {zero_operand(raw.zeros >> (16 * group)),
                                 zero_operand(raw.zeros >> (16 * group + 8))};
#pragma unroll
      for (int i = 0; i < 4 / Scales; ++i) {
        const int step = group * (4 / Scales) + i;
        uint32_t a[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) a[r] = fragment(raw, step, r, zeros[r % 2]);
#pragma unroll
        for (int tile = 0; tile < Tiles; ++tile) {
          uint32_t b[2];
          x[tile].fragment(step, b);
          ptx::mma_bf16(sums[tile], a, b);
        }
      }
      const float low = scale_of(raw.scales[group], part.scale_kind);
      const float high = scale_of(raw.scales[group] >> 16, part.scale_kind);
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) {
        acc[tile][0] = fmaf(low, sums[tile][0], acc[tile][0]);
        acc[tile][1] = fmaf(low, sums[tile][1], acc[tile][1]);
        acc[tile][2] = fmaf(high, sums[tile][2], acc[tile][2]);
        acc[tile][3] = fmaf(high, sums[tile][3], acc[tile][3]);
      }
    }
  }
};

}  // namespace pare::cuda
