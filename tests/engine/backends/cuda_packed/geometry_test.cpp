// Which kernel, and how it is cut: every output and every part of K once, whatever the shape.
#include <map>
#include <vector>

#include <gtest/gtest.h>

#include "engine/backends/cuda/packed_geometry.h"
#include "engine/backends/cuda/packed_table.h"

namespace pare::cuda {
namespace {

constexpr DeviceShape kDevices[] = {{132, 233472}, {108, 167936}, {1, 102400}, {7, 167936}};
constexpr int kTiles[] = {1, 2, 7, 8, 9, 36, 256, 384, 1792, 8016};
constexpr int kBlocks[] = {1, 2, 3, 9, 12, 64, 65, 128, 224, 1024};

TEST(PackedTable, EveryProblemHasAKernelThatCanRunIt) {
  for (const MathMode math : {MathMode::f32, MathMode::bf16}) {
    for (int bits = 2; bits <= 8; ++bits) {
      for (const int64_t m : {1, 2, 8, 9, 16, 17, 32, 33, 64, 128, 129, 192, 193, 512, 513, 100000}) {
        const PackedProblem problem{.m = m, .n = 4096, .k = 4096, .bits = bits, .math = math};
        const PackedKernel& kernel = choose_packed_kernel(problem);
        EXPECT_TRUE(kernel.can_run(problem)) << kernel.name << " m " << m;
        EXPECT_NE(describe_choice(problem).find(kernel.name), std::string::npos);
      }
    }
  }
}

TEST(PackedTable, FewRowsStreamAndManyAreMadeDense) {
  const auto name = [](int64_t m, MathMode math) {
    return choose_packed_kernel({.m = m, .n = 4096, .k = 4096, .bits = 4, .math = math}).name;
  };
  EXPECT_EQ(name(1, MathMode::bf16), "packed_vector");
  EXPECT_EQ(name(16, MathMode::bf16), "packed_vector");
  EXPECT_EQ(name(17, MathMode::bf16), "packed_fragments");
  EXPECT_EQ(name(2048, MathMode::bf16), "packed_dense");
  EXPECT_EQ(name(1, MathMode::f32), "packed_floats");
  EXPECT_EQ(name(2048, MathMode::f32), "packed_dense");
}

TEST(PackedTable, AForcedKernelRunsWhereItCan) {
  force_packed_kernel("packed_fragments");
  EXPECT_EQ(choose_packed_kernel({.m = 1, .n = 1, .k = 1, .bits = 4, .math = MathMode::bf16}).name,
            "packed_fragments");
  EXPECT_EQ(choose_packed_kernel({.m = 1, .n = 1, .k = 1, .bits = 4, .math = MathMode::f32}).name,
            "packed_floats");
  force_packed_kernel({});
  EXPECT_EQ(choose_packed_kernel({.m = 1, .n = 1, .k = 1, .bits = 4, .math = MathMode::bf16}).name,
            "packed_vector");
}

TEST(VectorGeometry, CoversEveryTileAndEveryBlockOfColumnsOnce) {
  for (const DeviceShape& device : kDevices) {
    for (const int tiles : kTiles) {
      for (const int blocks : kBlocks) {
        for (const int chunk : {2, 4}) {
          for (const int64_t m : {1, 8, 9, 16}) {
            const VectorGeometry g = vector_geometry(device, m, tiles, blocks, chunk);
            SCOPED_TRACE(testing::Message() << tiles << " tiles, " << blocks << " blocks, m " << m);
            ASSERT_EQ(g.warps % g.warps_per_tile, 0);
            ASSERT_EQ(g.blocks_per_slice % chunk, 0);
            ASSERT_GE(g.grid, 1);
            ASSERT_LE(g.grid, g.tile_groups);
            ASSERT_LE(g.shared_bytes, size_t(99 * 1024)) << "fits every device of compute capability 8";
            ASSERT_LE(g.warps, 16);
            const int together = g.warps / g.warps_per_tile;
            ASSERT_GE(g.tile_groups * together, tiles);
            ASSERT_LT((g.tile_groups - 1) * together, tiles);
            // the turns of a warp, as the kernel walks them
            std::vector<int> met(size_t(blocks), 0);
            const int turns = (g.blocks_per_slice / chunk + g.warps_per_tile - 1) / g.warps_per_tile;
            for (int slice = 0; slice < g.slices; ++slice) {
              const int end = std::min((slice + 1) * g.blocks_per_slice, blocks);
              ASSERT_LT(slice * g.blocks_per_slice, blocks) << "no slice is empty";
              for (int warp = 0; warp < g.warps_per_tile; ++warp) {
                for (int turn = 0; turn < turns; ++turn) {
                  const int first = slice * g.blocks_per_slice + (turn * g.warps_per_tile + warp) * chunk;
                  for (int block = first; block < std::min(first + chunk, end); ++block) ++met[size_t(block)];
                }
              }
            }
            for (const int count : met) ASSERT_EQ(count, 1);
            ASSERT_EQ(g.workspace_bytes > 0, g.slices > 1);
          }
        }
      }
    }
  }
}

// The load of the busiest multiprocessor, for the shapes of an 8B model on an H100, one row.
TEST(VectorGeometry, TilesSpreadEvenlyOverTheDevice) {
  for (const auto& [tiles, blocks] : {std::pair{384, 64}, {256, 64}, {1792, 64}, {256, 224}}) {
    const VectorGeometry g = vector_geometry(kDevices[0], 1, tiles, blocks, 4);
    std::map<int, int> work;  // blocks of threads go to multiprocessors in turn
    for (int block = 0; block < g.grid; ++block) {
      for (int group = block; group < g.tile_groups; group += g.grid) work[block % 132] += 1;
    }
    int most = 0;
    for (const auto& [_, count] : work) most = std::max(most, count);
    EXPECT_LE(double(most) / (double(g.tile_groups) / 132.0), 1.05) << tiles;
  }
}

TEST(StripeGeometry, EveryUnitIsInOneRunAndEverySumInItsOwnPlace) {
  for (const DeviceShape& device : kDevices) {
    for (const int tiles : kTiles) {
      for (const int blocks : kBlocks) {
        for (const int64_t m : {1, 17, 32, 33, 64, 65, 192, 512}) {
          const StripeGeometry g = stripe_geometry(device, m, tiles, blocks);
          SCOPED_TRACE(testing::Message() << tiles << " tiles, " << blocks << " blocks, m " << m);
          ASSERT_GE(g.columns * g.column_groups, m);
          ASSERT_GE(g.tile_groups * 8, tiles);
          ASSERT_GE(g.stages * 2, blocks);
          ASSERT_GE(int64_t(g.runs) * g.per_run, g.units());
          ASSERT_LT(int64_t(g.runs - 1) * g.per_run, g.units());
          ASSERT_LE(g.column_groups * g.tile_groups, 2 * tiles + 64) << "counters";
          // the ring of the widest format, static arrays and what the driver keeps
          const size_t stage = 8 * 4 * 512 + size_t(g.columns) * 272;
          ASSERT_LE(3 * stage + (g.columns == 32 ? 16384 : 0) + 2048, device.shared_per_multiprocessor);
          std::map<int, int> places;
          for (int group = 0; group < g.tile_groups; ++group) {
            int stages = 0;
            const int first = g.first_run(group), last = g.last_run(group);
            for (int run = first; run <= last; ++run) {
              const int begin = std::max(run * g.per_run, group * g.stages);
              const int end = std::min(std::min((run + 1) * g.per_run, g.units()), (group + 1) * g.stages);
              ASSERT_LT(begin, end) << "a run of a group has a part of it";
              stages += end - begin;
              if (first == last) continue;
              const int place = g.place(run, group);
              ASSERT_TRUE(place == 2 * run || place == 2 * run + 1);
              ASSERT_TRUE(places.emplace(place, group).second) << "place " << place;
            }
            ASSERT_EQ(stages, g.stages);
          }
          if (!places.empty()) {
            ASSERT_GE(g.workspace_bytes, size_t(g.input_bytes) + size_t(g.column_groups) * 2 *
                                                                     size_t(g.runs) * size_t(g.columns) *
                                                                     128 * sizeof(float));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace pare::cuda
