#include "engine/backends/cuda/packed_geometry.h"

#include <algorithm>

#include "engine/core/assert.h"

namespace pare::cuda {
namespace {

constexpr int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

// Two blocks of threads per multiprocessor hold 64 loads of 512 bytes in flight between them, or 128 with the
// next chunk: about what the latency of HBM3 needs. Inputs may take what is left of shared memory.
constexpr int kWarps = 8;
constexpr size_t kMostInputBytes = 64 * 1024;
constexpr int kMostBlocksPerMultiprocessor = 4;
constexpr int kLaneBytes = 128;  // of a row of inputs per block of 64 columns
constexpr int kSumFloats = 128;  // of a stripe, per row of inputs

}  // namespace

VectorGeometry vector_geometry(const DeviceShape& device, int64_t m, int tiles, int blocks, int chunk) {
  PARE_ASSERT(m >= 1 && m <= 16 && tiles > 0 && blocks > 0 && chunk > 0, "[packed_vector] {} rows, {} tiles",
              m, tiles);
  VectorGeometry g{};
  const int most_blocks = std::max(chunk, int(kMostInputBytes / size_t(m) / kLaneBytes) / chunk * chunk);
  g.slices = ceil_div(blocks, most_blocks);
  g.blocks_per_slice = ceil_div(ceil_div(blocks, g.slices), chunk) * chunk;
  g.slices = ceil_div(blocks, g.blocks_per_slice);
  const int chunks = g.blocks_per_slice / chunk;
  // A matrix with few tiles: twice the warps on each, so that a multiprocessor has as many loads under way.
  g.warps = tiles * g.slices <= device.multiprocessors && chunks >= 2 * kWarps ? 2 * kWarps : kWarps;
  g.warps_per_tile = 1;
  while (g.warps_per_tile < g.warps && g.warps_per_tile < chunks) g.warps_per_tile *= 2;
  const int tiles_together = g.warps / g.warps_per_tile;
  g.tile_groups = ceil_div(tiles, tiles_together);
  // 16 bytes more than a multiple of 32: eight lanes (two rows, four places) read all banks once
  g.row_bytes = g.blocks_per_slice * kLaneBytes + 16;
  const size_t input_bytes = size_t(m) * size_t(g.row_bytes);
  const size_t column_tiles = m > 8 ? 2 : 1;
  const size_t sum_bytes = 2 * size_t(g.warps) * column_tiles * 128 * sizeof(float);
  g.shared_bytes = (input_bytes + 127) / 128 * 128 + sum_bytes;
  const int resident = std::clamp(int(device.shared_per_multiprocessor / (g.shared_bytes + 1024)), 1,
                                  kMostBlocksPerMultiprocessor * kWarps / g.warps);
  g.grid = std::min(g.tile_groups, std::max(1, device.multiprocessors * resident / g.slices));
  if (g.slices > 1) {
    g.workspace_bytes =
        size_t(g.slices) * size_t(g.tile_groups) * size_t(tiles_together) * 16 * size_t(m) * sizeof(float);
  }
  return g;
}

StripeGeometry stripe_geometry(const DeviceShape& device, int64_t m, int tiles, int blocks) {
  PARE_ASSERT(m >= 1 && m <= kMostStripeRows && tiles > 0 && blocks > 0,
              "[packed_fragments] {} rows, {} tiles", m, tiles);
  constexpr int kTilesTogether = 8;
  constexpr int kLeastStages = 4;  // of a run, or filling the pipeline would be most of its time
  StripeGeometry g{};
  // A multiprocessor of 100 KiB (8.6, 8.9) has no room for a ring with 64 rows of inputs.
  constexpr size_t kWideRing = 104 * 1024;
  g.columns = m <= 32 || device.shared_per_multiprocessor < kWideRing ? 32 : 64;
  g.column_groups = ceil_div(int(m), g.columns);
  g.tile_groups = ceil_div(tiles, kTilesTogether);
  g.stages = ceil_div(blocks, 2);
  // two blocks of threads per multiprocessor, so that one computes while the other waits
  const int most_runs = std::max(1, 2 * device.multiprocessors / g.column_groups);
  g.per_run = std::max(ceil_div(g.units(), most_runs), std::min(kLeastStages, g.stages));
  g.runs = ceil_div(g.units(), g.per_run);
  g.input_bytes = (m * int64_t(blocks) * kLaneBytes + 255) / 256 * 256;
  g.workspace_bytes = size_t(g.input_bytes);
  if (g.per_run % g.stages != 0) {
    g.workspace_bytes +=
        size_t(g.column_groups) * size_t(2 * g.runs) * size_t(g.columns) * kSumFloats * sizeof(float);
  }
  return g;
}

size_t most_vector_sums(int64_t m, int tiles, int blocks) {
  if (m > 16) return 0;
  constexpr int kLongestChunk = 4, kMostTogether = 2 * kWarps;
  const int most_blocks =
      std::max(1, int(kMostInputBytes / size_t(m) / kLaneBytes) / kLongestChunk * kLongestChunk);
  return size_t(ceil_div(blocks, most_blocks)) * size_t(tiles + kMostTogether) * 16 * size_t(m) *
         sizeof(float);
}

size_t most_stripe_sums(const DeviceShape& device, int64_t m) {
  const int64_t groups = (m + 31) / 32;  // of 32 rows at least
  const int64_t runs = std::max<int64_t>(groups, 2 * device.multiprocessors);
  constexpr size_t kMostColumns = 64;
  return size_t(2 * runs) * kMostColumns * kSumFloats * sizeof(float);
}

}  // namespace pare::cuda
