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

// packed_fragments. Tiles of 128 outputs x `columns` rows of inputs; K in stages of 128. The stages of all
// tiles of one column group stand in one line, cut into equal runs ("stripes"), so that no multiprocessor
// waits in a last wave. A run that does not hold all stages of a tile leaves its sum in the workspace, and
// the last one to come adds up in the order of runs.
struct StripeGeometry {
  int columns;          // rows of inputs per block: 32 or 64
  int column_groups;    // of m
  int tile_groups;      // of 128 outputs
  int stages;           // of K
  int runs, per_run;    // units of work = tile_groups * stages
  int64_t input_bytes;  // bf16 inputs in the order of the layout, at the head of the workspace
  size_t workspace_bytes;

  constexpr int units() const { return tile_groups * stages; }
  // Runs that have a part of a tile group.
  constexpr int first_run(int group) const { return group * stages / per_run; }
  constexpr int last_run(int group) const { return ((group + 1) * stages - 1) / per_run; }
  // Each run has two places for unfinished sums: one for the tile it begins within, one for the tile it ends
  // within. Of `run` for tile group `group`:
  constexpr int place(int run, int group) const {
    return 2 * run + (run * per_run <= group * stages ? 1 : 0);
  }
};
// What partial sums take at most, whatever the number of blocks of columns (up to `blocks`) and the format.
size_t most_vector_sums(int64_t m, int tiles, int blocks);  // 0 for m > 16
size_t most_stripe_sums(const DeviceShape& device, int64_t m);
StripeGeometry stripe_geometry(const DeviceShape& device, int64_t m, int tiles, int blocks);
constexpr int64_t kMostStripeRows = 512;  // more column groups than that have no counters

}  // namespace pare::cuda
