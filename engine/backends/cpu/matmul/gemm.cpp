#include "engine/backends/cpu/matmul/gemm.h"

#include <algorithm>

#include "engine/core/parallel.h"

namespace pare::cpu {
namespace {

// `total` cut into pieces of nearly equal size that are multiples of `unit` (but for the last) and at most
// `largest`.
struct Pieces {
  int64_t total, size, count;
  Pieces(int64_t all, int64_t largest, int64_t unit) : total(all) {
    const int64_t wanted = (all + largest - 1) / largest;
    size = ((all + wanted - 1) / wanted + unit - 1) / unit * unit;
    count = (all + size - 1) / size;
  }
  int64_t begin(int64_t piece) const { return piece * size; }
  int64_t length(int64_t piece) const { return std::min(size, total - begin(piece)); }
};

// Rows of x in panels of at most `tallest`; all have the same height or one less, so no panel is nearly
// empty.
struct RowPanels {
  int64_t count, height, tall;  // the first `tall` panels have `height` rows, the others one less
  RowPanels(int64_t rows, int64_t tallest) {
    count = (rows + tallest - 1) / tallest;
    height = (rows + count - 1) / count;
    tall = count - (height * count - rows);
  }
  int64_t begin(int64_t panel) const { return panel * height - std::max<int64_t>(0, panel - tall); }
  int64_t rows(int64_t panel) const { return panel < tall ? height : height - 1; }
};

struct Plan {
  const LevelKernels& level;
  const GemmArgs& args;
  const PanelSource& source;
  RowPanels rows;
  Pieces depth;
  Pieces row_blocks;     // in row panels
  Pieces column_blocks;  // in column panels
  float* packed;         // x: per depth block the row panels [kc, rows], one after the other

  int64_t panel_width() const { return 2 * level.width; }
  const float* packed_panel(int64_t block, int64_t panel) const {
    return packed + args.m * depth.begin(block) + rows.begin(panel) * depth.length(block);
  }
};

// The same of a transposed x, whose rows hold the panels side by side: a few of its rows at a time, so that
// they are read in stretches of many panels and lie in few pages.
void pack_columns(const Plan& plan, int64_t first, int64_t end) {
  constexpr int64_t kTermsAtOnce = 16;
  const int64_t stride = plan.args.x_stride;
  for (int64_t block = 0; block < plan.depth.count; ++block) {
    const float* x = plan.args.x + plan.depth.begin(block) * stride;
    const int64_t kc = plan.depth.length(block);
    for (int64_t k = 0; k < kc; k += kTermsAtOnce) {
      for (int64_t panel = first; panel < end; ++panel) {
        const int64_t rows = plan.rows.rows(panel);
        plan.level.pack_columns[rows](x + k * stride + plan.rows.begin(panel), stride,
                                      std::min(kTermsAtOnce, kc - k),
                                      const_cast<float*>(plan.packed_panel(block, panel)) + k * rows);
      }
    }
  }
}

void pack_rows(const Plan& plan, int64_t first, int64_t end) {
  if (plan.args.x_is_transposed) return pack_columns(plan, first, end);
  for (int64_t panel = first; panel < end; ++panel) {
    const float* x = plan.args.x + plan.rows.begin(panel) * plan.args.x_stride;
    for (int64_t block = 0; block < plan.depth.count; ++block) {
      plan.level.pack_rows(x + plan.depth.begin(block), plan.args.x_stride, plan.rows.rows(panel),
                           plan.depth.length(block), const_cast<float*>(plan.packed_panel(block, panel)));
    }
  }
}

void multiply_panel(const Plan& plan, const float* panel, int64_t block, int64_t n0, int64_t first,
                    int64_t end) {
  const GemmArgs& a = plan.args;
  GemmTile tile = {};
  tile.b = panel;
  tile.kc = plan.depth.length(block);
  tile.bias = a.bias != nullptr && block == 0 ? a.bias + n0 : nullptr;
  tile.out_stride = a.out_stride;
  tile.columns = std::min(plan.panel_width(), a.n - n0);
  tile.accumulate = a.accumulate || block > 0;
  for (int64_t row_panel = first; row_panel < end; ++row_panel) {
    tile.a = plan.packed_panel(block, row_panel);
    tile.out = a.out + plan.rows.begin(row_panel) * a.out_stride + n0;
    plan.level.gemm_tile[plan.rows.rows(row_panel)](tile);
  }
}

void run_item(const Plan& plan, int64_t item) {
  const int64_t row_block = item % plan.row_blocks.count, column_block = item / plan.row_blocks.count;
  const int64_t first_row = plan.row_blocks.begin(row_block);
  const int64_t end_row = first_row + plan.row_blocks.length(row_block);
  const int64_t first_column = plan.column_blocks.begin(column_block);
  const int64_t end_column = first_column + plan.column_blocks.length(column_block);
  alignas(64) float panel[kMaxDepth * kMaxPanel];
  for (int64_t block = 0; block < plan.depth.count; ++block) {
    for (int64_t column = first_column; column < end_column; ++column) {
      const int64_t n0 = column * plan.panel_width();
      plan.source.fill(plan.source.context, n0, std::min(plan.panel_width(), plan.args.n - n0),
                       plan.depth.begin(block), plan.depth.length(block), panel);
      multiply_panel(plan, panel, block, n0, first_row, end_row);
    }
  }
}

}  // namespace

size_t gemm_workspace_bytes(int64_t m, int64_t k) {
  return size_t(m) * size_t(k) * sizeof(float);
}

void gemm(const LevelKernels& level, const GemmArgs& args, const PanelSource& source) {
  constexpr int64_t kRowBlock = 512;  // rows that share the cost of making a panel of W
  // Column panels that find the packed x in the second-level cache. Few would read all of it again from
  // memory: with 18 panels and x of 12 MiB, 20 give 1.2 times the rate of 8.
  constexpr int64_t kColumnBlock = 20;
  // Pieces of work to aim at, so that threads finish together. No sum is cut, so the results do not show
  // them.
  const int64_t items = std::max(8, 4 * thread_count());
  const RowPanels rows(args.m, level.rows);
  const Pieces row_blocks(rows.count, (kRowBlock + level.rows - 1) / level.rows, 1);
  const int64_t panels = (args.n + 2 * level.width - 1) / (2 * level.width);
  const int64_t column_block = std::clamp<int64_t>(panels * row_blocks.count / items, 1, kColumnBlock);
  const Plan plan{level,
                  args,
                  source,
                  rows,
                  Pieces(args.k, level.depth, 16),
                  row_blocks,
                  Pieces(panels, column_block, 1),
                  static_cast<float*>(args.workspace)};
  const int64_t packed_at_once = args.x_is_transposed ? 32 : 8;
  parallel_ranges(rows.count, packed_at_once,
                  [&](int64_t first, int64_t end) { pack_rows(plan, first, end); });
  parallel_for(plan.row_blocks.count * plan.column_blocks.count, [&](int64_t item) { run_item(plan, item); });
}

}  // namespace pare::cpu
