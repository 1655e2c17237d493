// Repacking at load, one thread per word of the layout; and the way back to numbers, one warp per block of a
// tile.
#include <algorithm>

#include "engine/backends/cuda/packed_fragments.cuh"
#include "engine/backends/cuda/packed_prepack.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;

struct PrepackCodesArgs {
  CanonicalCodes from;
  const int32_t* columns_of;  // null: as they are
  unsigned char* to;          // the tiles
  int64_t tile_bytes, plane_offset, words_per_tile, words;
  int bits, width, low_bit;  // of a code; of the plane; first bit that is the plane's
  int out, in, blocks;
};

__device__ uint32_t canonical_code(const PrepackCodesArgs& a, int row, int place) {
  if (row >= a.out) return 0;
  const int column = a.columns_of != nullptr ? a.columns_of[place] : place;
  if (column < 0 || column >= a.in) return 0;
  const int64_t bit = int64_t(column) * a.bits;
  const uint8_t* at = a.from.codes + int64_t(row) * a.from.row_bytes + bit / 8;
  const int first = int(bit % 8);
  uint32_t code = at[0];
  if (first + a.bits > 8) code |= uint32_t(at[1]) << 8;
  return code >> first & ((1u << a.bits) - 1);
}

__global__ void prepack_codes_kernel(PrepackCodesArgs a) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < a.words; i += step) {
    const int tile = int(i / a.words_per_tile);
    const int64_t in_tile = i % a.words_per_tile;
    const int lane = int(in_tile / 4 % 32), g = lane / 4, t = lane % 4;
    const int64_t word = in_tile / 128 * 4 + in_tile % 4;  // of the lane
    const int block = int(word / a.width), pairs = 16 / a.width;
    uint32_t bits = 0;
    for (int j = 0; j < pairs && block < a.blocks; ++j) {
      const int pair = int(word % a.width) * pairs + j;
      const int row = tile * kTileRows + g + 8 * (pair % 2);
      const int place = block * kBlockColumns + pair / 4 * kStepColumns + 4 * t + pair % 4 / 2 * 2;
      const uint32_t mask = (1u << a.width) - 1;
      bits |= (canonical_code(a, row, place) >> a.low_bit & mask) << (j * a.width);
      bits |= (canonical_code(a, row, place + 1) >> a.low_bit & mask) << (j * a.width + 16);
    }
    reinterpret_cast<uint32_t*>(a.to + int64_t(tile) * a.tile_bytes + a.plane_offset)[in_tile] = bits;
  }
}

template <typename T>
__global__ void prepack_groups_kernel(const T* from, T* to, const int32_t* group_of, int64_t count,
                                      int64_t layout_groups, int64_t groups, int64_t out, bool is_one) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int place = int(i % kTileRows);
  const int64_t row = i / (kTileRows * layout_groups) * kTileRows + place / 2 + place % 2 * 8;
  int64_t group = i / kTileRows % layout_groups;
  if (group_of != nullptr) group = group_of[group];
  const bool is_there = row < out && group >= 0 && group < groups;
  to[i] = is_there ? from[is_one ? 0 : row * groups + group] : T(0);
}

// Four neighbours of a row, of which `count` exist.
__device__ void store_four(float* out, const float (&values)[4], int count) {
  for (int i = 0; i < count; ++i) out[i] = values[i];
}
__device__ void store_four(__nv_bfloat16* out, const float (&values)[4], int count) {
  if (count == 4 && reinterpret_cast<uintptr_t>(out) % 8 == 0) {
    *reinterpret_cast<uint2*>(out) =
        make_uint2(pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3]));
    return;
  }
  for (int i = 0; i < count; ++i) out[i] = __float2bfloat16(values[i]);
}

// One warp per block of 64 columns of a tile; the rounding of each weight is that of dequantize().
template <typename T>
__global__ void dequantize_kernel(FragmentMatrix w, T* out, int64_t blocks) {
  const int lane = int(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  const int64_t index = int64_t(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  if (index >= blocks) return;
  const int tile = int(index / w.blocks), block = int(index % w.blocks);
  uint32_t words[AnyFormat::kWords];
  AnyFormat::load(w, w.codes + int64_t(tile) * w.tile_bytes, block, lane, words);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const int group = group_of_step(w, block * 4 + step);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile * kTileRows + g + 8 * half;
      if (row >= w.out) continue;
      const FloatGrid grid = float_grid(w, tile, group, g, half);
      const uint32_t pairs[2] = {any_pair(w.bits, words, step, half),
                                 any_pair(w.bits, words, step, half + 2)};
      float values[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] = grid.weight(w, pairs[i / 2] >> (16 * (i % 2)) & 0xff);
      const int place = block * kBlockColumns + step * kStepColumns + 4 * t;
      T* to = out + int64_t(row) * w.in;
      if (w.columns_of == nullptr) {
        const int count = w.in - place;
        if (count > 0) store_four(to + place, values, count < 4 ? count : 4);
        continue;
      }
      for (int i = 0; i < 4; ++i) {
        const int column = w.columns_of[place + i];
        if (column >= 0) to[column] = T(values[i]);
      }
    }
  }
}

}  // namespace

void launch_prepack_codes(Context& context, const CanonicalCodes& from, const FragmentMatrix& to,
                          const FragmentGeometry& g) {
  int low_bit = 0;
  for (size_t plane = 0; plane < g.planes.size() && g.planes[plane] > 0; ++plane) {
    const int width = g.planes[plane];
    const int64_t end =
        plane + 1 < g.planes.size() && g.planes[plane + 1] > 0 ? g.plane_offsets[plane + 1] : g.tile_bytes;
    const int64_t words_per_tile = (end - g.plane_offsets[plane]) / 4;
    const PrepackCodesArgs args{.from = from,
                                .columns_of = to.columns_of,
                                .to = const_cast<unsigned char*>(to.codes),
                                .tile_bytes = g.tile_bytes,
                                .plane_offset = g.plane_offsets[plane],
                                .words_per_tile = words_per_tile,
                                .words = words_per_tile * g.tiles,
                                .bits = g.bits,
                                .width = width,
                                .low_bit = low_bit,
                                .out = int(g.out),
                                .in = int(g.in),
                                .blocks = int(g.blocks)};
    const int64_t blocks =
        std::min<int64_t>((args.words + kThreads - 1) / kThreads, int64_t(context.multiprocessors()) * 16);
    context.launch("prepack_codes", prepack_codes_kernel, {.grid = unsigned(blocks), .block = kThreads},
                   args);
    low_bit += width;
  }
}

void launch_prepack_groups(Context& context, const void* from, void* to, int width, const FragmentGeometry& g,
                           const int32_t* group_of, int64_t groups, bool is_one) {
  const int64_t count = g.tiles * g.groups * kTileRows;
  const LaunchShape shape{.grid = blocks_for(count, kThreads), .block = kThreads};
  const auto launch = [&]<typename T>(T) {
    context.launch("prepack_groups", prepack_groups_kernel<T>, shape, static_cast<const T*>(from),
                   static_cast<T*>(to), group_of, count, g.groups, groups, g.out, is_one);
  };
  if (width == 1) {
    launch(uint8_t{});
  } else if (width == 2) {
    launch(uint16_t{});
  } else {
    launch(uint32_t{});
  }
}

void launch_dequantize(Context& context, const FragmentMatrix& from, DType dtype, void* out) {
  const int64_t blocks = int64_t(from.tiles) * from.blocks;
  const LaunchShape shape{.grid = blocks_for(blocks, kThreads / kWarp), .block = kThreads};
  if (dtype == DType::f32) {
    context.launch("dequantize", dequantize_kernel<float>, shape, from, static_cast<float*>(out), blocks);
  } else {
    context.launch("dequantize", dequantize_kernel<__nv_bfloat16>, shape, from,
                   static_cast<__nv_bfloat16*>(out), blocks);
  }
}

}  // namespace pare::cuda
