// engine/backends/cuda/sparse_of_four.h: what a lane holds of a 2:4 tile of 16 rows x 64 columns. Internal to
// the sparse kernels.
#pragma once

#include "engine/backends/cuda/sparse_kernels.h"

namespace pare::cuda {

// A tile as stored: eight kept weights of each half for this lane, and this lane's word of places.
template <SparseStored kStored>
struct OfFourTile {
  static constexpr int kValueBytes = int(of_four_value_bytes(kStored));
  // Pairs a0 .. a3 of both halves, as they are: two 16-bit values, two bytes, or a byte of two nibbles.
  uint32_t values[2][kIsCode<kStored> ? (kStored == SparseStored::byte ? 2 : 1) : 4];
  uint32_t places;

  // From memory that `load16(pointer)` reads 16 bytes of and `load8`, `load4`: global or shared.
  template <typename Load16, typename Load8, typename Load4>
  __device__ __forceinline__ void load(const uint8_t* tile, const uint8_t* words, Load16 load16, Load8 load8,
                                       Load4 load4) {
    const int lane = int(threadIdx.x) % kWarp;
    if constexpr (kStored == SparseStored::byte) {
      const uint4 v = load16(tile + lane * 16);
      values[0][0] = v.x, values[0][1] = v.y, values[1][0] = v.z, values[1][1] = v.w;
    } else if constexpr (kStored == SparseStored::nibble) {
      const uint2 v = load8(tile + lane * 8);
      values[0][0] = v.x, values[1][0] = v.y;
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 v = load16(tile + half * 512 + lane * 16);
        values[half][0] = v.x, values[half][1] = v.y, values[half][2] = v.z, values[half][3] = v.w;
      }
    }
    places = load4(words + lane * 4);
  }

  // The two weights of pair a<pair> before scales.
  __device__ __forceinline__ float2 pair(int half, int pair) const {
    if constexpr (kStored == SparseStored::byte) {
      const uint32_t word = values[half][pair / 2] >> (16 * (pair % 2));
      return make_float2(float(word & 255u), float(word >> 8 & 255u));
    } else if constexpr (kStored == SparseStored::nibble) {
      const uint32_t byte = values[half][0] >> (8 * pair);
      return make_float2(float(byte & 15u), float(byte >> 4 & 15u));
    } else if constexpr (kStored == SparseStored::f16) {
      const uint32_t word = values[half][pair];
      return make_float2(__half2float(__ushort_as_half(static_cast<unsigned short>(word & 0xffffu))),
                         __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16))));
    } else {
      return make_float2(bf16_low(values[half][pair]), bf16_high(values[half][pair]));
    }
  }

  // Places of pair a<pair> within its four columns; the whole warp takes part.
  struct Places {
    int low, high;
  };
  __device__ __forceinline__ Places places_of(int half, int pair) const {
    const int lane = int(threadIdx.x) % kWarp;
    const uint32_t word = __shfl_sync(kAllLanes, places, (lane & ~3) + 2 * half + pair / 2);
    const uint32_t bits = word >> (16 * (pair % 2) + 4 * (lane & 3));
    return {int(bits & 3u), int(bits >> 2 & 3u)};
  }
};

// Scale and zero of the two rows of a lane (g and g + 8), kept until the group of columns changes.
struct OfFourGrids {
  int64_t group = -1;
  SparseGrid rows[2];

  __device__ __forceinline__ void seek(const SparseProblem& p, int64_t row, int64_t column) {
    int64_t wanted = p.groups == 1 ? 0 : int64_t(uint32_t(column) / uint32_t(p.group_width));
    if (wanted >= p.groups) wanted = p.groups - 1;  // fillings behind the last column
    if (wanted == group) return;
    group = wanted;
#pragma unroll
    for (int i = 0; i < 2; ++i) rows[i] = sparse_grid(p, row + 8 * i < p.n ? row + 8 * i : p.n - 1, group);
  }
};

}  // namespace pare::cuda
