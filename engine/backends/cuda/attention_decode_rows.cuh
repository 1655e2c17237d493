// engine/backends/cuda/attention_decode_rows.cuh: keys and values from memory to the registers of mma,
// without shared memory between.
//
// A product does not care in which order its k run, nor does attention care which lane has which column of
// the output. So lanes load what lies side by side, 16 bytes where the row is long enough, and the queries
// and outputs are permuted instead:
//
//   keys    operand b: lane (g, t) = (l / 4, l % 4) has components of key g; 4 lanes read a row side by side
//   values  operand a, transposed: the lane has components of keys 2 t, 2 t + 1, 2 t + 8 and 2 t + 9; 8 lanes
//   read a
//           row side by side; byte_perm joins the same component of two keys
//
// A lane's words of 32 bits expand to 1 (floats), 2 (int8) or 4 (int4) pairs of bf16. Codes expand to code -
// zero, which bf16 holds exactly; scales are applied to scores and to weights. Nothing of this needs a
// conversion from float.
#pragma once

#include "engine/backends/cuda/attention_convert.h"
#include "engine/backends/cuda/attention_tiles.cuh"

namespace pare::cuda {

template <KvForm Form, int D>
struct RowLayout {
  static constexpr bool kIsCode = Form == KvForm::int8 || Form == KvForm::int4;
  static constexpr int kExpand = Form == KvForm::int8 ? 2 : Form == KvForm::int4 ? 4 : 1;  // pairs of a word
  static constexpr int kRowWords = D / 2 / kExpand;  // of a padded row; floats are packed as they come
  static constexpr int kKeyWords = kRowWords / 4 < 4 ? kRowWords / 4 : 4;  // of a lane at a time
  static constexpr int kKeyChunks = kRowWords / 4 / kKeyWords;
  static constexpr int kValueWords = kRowWords / 8 < 4 ? kRowWords / 8 : 4;
  static constexpr int kValueChunks = kRowWords / 8 / kValueWords;
  static_assert(4 * kKeyWords * kKeyChunks == kRowWords && 8 * kValueWords * kValueChunks == kRowWords);

  // Component in half `high` of pair `expanded` of word `word` of a row; -1 where there is none.
  __device__ __forceinline__ static int component(int word, int expanded, int high, int head_dim) {
    int d;
    if constexpr (Form == KvForm::int4) {  // the nibbles 4 expanded bits up, in bytes 0 and 2
      const int half = (head_dim + 1) / 2, byte = 4 * word + expanded / 2 + 2 * high;
      if (byte >= half) return -1;
      d = byte + expanded % 2 * half;
    } else {
      d = 2 * (kExpand * word + expanded) + high;
    }
    return d < head_dim ? d : -1;
  }
  __host__ __device__ static int64_t row_bytes(int head_dim) {
    return Form == KvForm::f32    ? 4 * head_dim
           : Form == KvForm::bf16 ? 2 * head_dim
           : Form == KvForm::int8 ? head_dim
                                  : (head_dim + 1) / 2;
  }
};

// Words first .. first + Words - 1 of a row; 0 beyond its end. `vectors`: rows are aligned to the words
// loaded at once (to 16 bytes for floats).
template <KvForm Form, int D, int Words>
__device__ __forceinline__ void load_words(uint32_t (&words)[Words], const uint8_t* row, int first,
                                           int head_dim, bool vectors) {
  using Layout = RowLayout<Form, D>;
  if constexpr (Form == KvForm::f32) {
    static_assert(Words == 4);
    float x[8];
    load_floats_8(x, reinterpret_cast<const float*>(row), 2 * first, head_dim, vectors);
#pragma unroll
    for (int w = 0; w < 4; ++w) words[w] = pack_bf16(x[2 * w], x[2 * w + 1]);
  } else {
    const int bytes = int(Layout::row_bytes(head_dim)) - 4 * first;
    if (vectors && bytes >= 4 * Words) {
      if constexpr (Words == 4) {
        const uint4 v = *reinterpret_cast<const uint4*>(row + 4 * first);
        words[0] = v.x;
        words[1] = v.y;
        words[2] = v.z;
        words[3] = v.w;
      } else if constexpr (Words == 2) {
        const uint2 v = *reinterpret_cast<const uint2*>(row + 4 * first);
        words[0] = v.x;
        words[1] = v.y;
      } else {
        words[0] = *reinterpret_cast<const uint32_t*>(row + 4 * first);
      }
      return;
    }
#pragma unroll
    for (int w = 0; w < Words; ++w) {
      words[w] = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (4 * w + i < bytes) words[w] |= uint32_t(row[4 * (first + w) + i]) << (8 * i);
      }
    }
  }
}

// Pair `Expanded` of a word as bf16; `zero` is minus (128 + zero point), twice (int4).
template <KvForm Form, int Expanded>
__device__ __forceinline__ uint32_t expand(uint32_t word, uint32_t zero) {
  constexpr uint32_t kOne = 0x3f803f80u, k128 = 0x43004300u;
  if constexpr (Form == KvForm::int8) {
    // 128 + the low 7 bits; minus 128, or minus 256 where the high bit is not set: code - 128
    const uint32_t pair = __byte_perm(word, 0, Expanded == 0 ? 0x4140 : 0x4342);
    const uint32_t low = ptx::lop3<0xea>(pair, 0x007f007fu, k128);            // (a & b) | c
    const uint32_t offset = ptx::lop3<0x6a>(pair, 0x00800080u, 0xc380c380u);  // (a & b) ^ c
    return ptx::fma_bf16(low, kOne, offset);
  } else if constexpr (Form == KvForm::int4) {
    return ptx::fma_bf16(ptx::lop3<0xea>(word >> (4 * Expanded), 0x000f000fu, k128), kOne, zero);
  } else {
    return word;
  }
}
// `grid`: f16 scale below, zero point above (load_grid).
__device__ __forceinline__ uint32_t zero_of(uint32_t grid) {
  return (0xc300u + (grid >> 16)) * 0x10001u;
}
__device__ __forceinline__ float scale_of(uint32_t grid) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(grid & 0xffffu)));
}

}  // namespace pare::cuda
