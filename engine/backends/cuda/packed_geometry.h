// engine/backends/cuda/packed_geometry.h: how products with low-bit weights are cut into blocks of threads.
// Host code; what kernels compute from it is written once, for both sides.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pare::cuda {

// What matters of a device.
struct DeviceShape {
  int multiprocessors;
  size_t shared_per_multiprocessor;  // bytes
};

// packed_vector. Inputs of a slice of K wait in shared memory as bf16; the warps of a block share the chunks
// of the slice, `warps_per_tile` of them on one tile of 16 outputs. Block (b, s) computes slice s of tile
// groups b, b + grid, ...; with several slices, the last block to come adds up in the order of slices.
struct VectorGeometry {
  int warps;                     // of a block
  int warps_per_tile;            // power of two; each takes every warps_per_tile-th chunk
  int slices, blocks_per_slice;  // of 64 columns; a multiple of the chunk
  int tile_groups;               // of warps / warps_per_tile tiles each
  int grid;                      // blocks along the tile groups
  int row_bytes;                 // of inputs in shared memory, padded against bank conflicts
  size_t shared_bytes;
  size_t workspace_bytes;  // partial sums
};
// `chunk`: blocks of 64 columns that a warp loads at once. 1 <= m <= 16.
VectorGeometry vector_geometry(const DeviceShape& device, int64_t m, int tiles, int blocks, int chunk);

}  // namespace pare::cuda
