// engine/backends/cuda/packed_fragments.h: a matrix of layout "cuda-fragments" as kernels get it. Includes
// nothing of CUDA.
#pragma once

#include <cstdint>

#include "engine/backends/cuda/packed_layout_cuda.h"

namespace pare::cuda {

enum class CodeKind : uint8_t { integer, e4m3, e5m2, codebook };
enum class ScaleType : uint8_t { f32, f16, bf16 };
enum class GridOffset : uint8_t { none, zero_point, minimum };

// Passed by value. Pointers are those of the device.
struct FragmentMatrix {
  const unsigned char* codes;  // the tiles
  const void* scales;          // [tiles, groups, 16]
  const void* offsets;         // the same, null where offset is none
  const float* table;          // [2^bits], codebooks only
  const int32_t* columns_of;   // [64 blocks], null: as they are
  unsigned* arrivals;          // [2 tiles + 64], zero between products
  int64_t tile_bytes;
  int64_t offset_of_2, offset_of_1;  // of the planes of 2 bits and of 1 bit in a tile; wider ones are first
  int32_t out, in, tiles, blocks, groups, group_columns;
  uint32_t group_reciprocal;  // group_of_step()
  int32_t bits, zero;         // zero: the code of 0 where the grid is symmetric, else 0
  CodeKind kind;
  ScaleType scale_type;
  GridOffset offset;
};

// How kernels decode: formats of their own for what is common, one for everything else.
enum class FragmentFormat : uint8_t { w4, w8, codebook4, any };
// Blocks of 64 columns that a warp of packed_vector loads at once: four pieces of 16 bytes per lane.
constexpr int chunk_blocks(FragmentFormat format) {
  return format == FragmentFormat::w4 || format == FragmentFormat::codebook4 ? 4 : 2;
}
FragmentFormat fragment_format(const FragmentMatrix& w);
// Steps of 16 columns that surely share a grid: 4, 2 or 1.
int steps_per_grid(const FragmentMatrix& w);

FragmentMatrix fragment_matrix(const PackedMatrix& packed);

}  // namespace pare::cuda
