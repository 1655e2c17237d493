// Products with codes: kernels that stream the codes for few rows, the blocked product with dequantized
// panels for many, and the same two over the canonical form for what has no layout.
#include <algorithm>
#include <array>

#include "engine/backends/cpu/matmul/gemm.h"
#include "engine/backends/cpu/matmul/int8.h"
#include "engine/backends/cpu/matmul/level.h"
#include "engine/backends/cpu/matmul/matmul.h"
#include "engine/backends/cpu/matmul/tile_layout.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"

namespace pare::cpu {
namespace {

struct PackedKernel {
  std::string_view name;
  bool tiled;                                 // reads a tile layout, else the canonical form
  int64_t (*largest_m)(const LevelKernels&);  // up to which it is the better one
  void (*run)(const LevelKernels&, const PackedMatmulArgs&);
};

constexpr int64_t kAnyRows = INT64_MAX;
constexpr int64_t kBytesAtOnce = 65536;  // codes of a piece of work: enough to outweigh handing it out

// sums [m, groups] of x over the groups, in eight interleaved parts
void sum_groups(const PackedMatmulArgs& a, const TileMatrix& w, float* sums) {
  for (int64_t m = 0; m < a.m; ++m) {
    for (int64_t group = 0; group < w.groups; ++group) {
      const float* x = a.x + m * a.x_stride + group * w.group_width;
      const int64_t count = std::min(w.group_width, w.k - group * w.group_width);
      std::array<float, 8> part{};
      int64_t i = 0;
      for (; i + 8 <= count; i += 8) {
        for (size_t j = 0; j < 8; ++j) part[j] += x[i + int64_t(j)];
      }
      for (; i < count; ++i) part[size_t(i % 8)] += x[i];
      sums[m * w.groups + group] =
          ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
    }
  }
}

TileForm form_of(const LevelKernels& level, const PackedMatrix& weight) {
  return tile_geometry(weight.scheme, weight.out, weight.in, level.width).form;
}

void run_tile_gemv(const LevelKernels& level, const PackedMatmulArgs& a) {
  const TileMatrix weight = tile_matrix(*a.weight, level.width);
  float* sums = static_cast<float*>(a.workspace);
  if (weight.extra != TileMatrix::Extra::none) sum_groups(a, weight, sums);
  const auto tiles = level.tile_gemv[size_t(form_of(level, *a.weight))];
  const int64_t count = (a.n + level.width - 1) / level.width;
  parallel_ranges(count, std::max<int64_t>(1, kBytesAtOnce / weight.tile_bytes),
                  [&](int64_t begin, int64_t end) {
                    tiles({.weight = &weight,
                           .x = a.x,
                           .sums = sums,
                           .bias = a.bias,
                           .out = a.out,
                           .m = a.m,
                           .x_stride = a.x_stride,
                           .out_stride = a.out_stride,
                           .begin = begin,
                           .end = end,
                           .accumulate = a.accumulate});
                  });
}

void run_gemm(const LevelKernels& level, const PackedMatmulArgs& a, const PanelSource& source) {
  gemm(level,
       {.x = a.x,
        .bias = a.bias,
        .out = a.out,
        .m = a.m,
        .n = a.n,
        .k = a.k,
        .x_stride = a.x_stride,
        .out_stride = a.out_stride,
        .accumulate = a.accumulate,
        .workspace = a.workspace},
       source);
}

struct TileSource {
  TileMatrix weight;
  int64_t width;
  void (*expand)(const TileMatrix&, int64_t tile, int64_t k0, int64_t kc, float* panel);

  static void fill(const void* context, int64_t n0, int64_t columns, int64_t k0, int64_t kc, float* panel) {
    const auto& from = *static_cast<const TileSource*>(context);
    const int64_t tile = n0 / from.width;
    from.expand(from.weight, tile, k0, kc, panel);
    if (columns > from.width) {
      from.expand(from.weight, tile + 1, k0, kc, panel + from.width);
      return;
    }
    for (int64_t k = 0; k < kc; ++k) std::fill_n(panel + (2 * k + 1) * from.width, from.width, 0.0f);
  }
};

void run_tile_gemm(const LevelKernels& level, const PackedMatmulArgs& a) {
  const TileSource tiles{.weight = tile_matrix(*a.weight, level.width),
                         .width = level.width,
                         .expand = level.expand_tile[size_t(form_of(level, *a.weight))]};
  run_gemm(level, a, {.fill = TileSource::fill, .context = &tiles});
}

// Row by row: a stretch of weights becomes floats in the first-level cache and meets all activation rows.
void run_canonical_gemv(const LevelKernels& level, const PackedMatmulArgs& a) {
  constexpr int64_t kStretch = 1024;
  constexpr int64_t kRowsAtOnce = 16;
  const QuantizedTensor& weight = *a.weight->canonical;
  parallel_ranges(a.n, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    alignas(64) std::array<float, size_t{kStretch}> values;
    for (int64_t row = begin; row < end; ++row) {
      const float bias = a.bias != nullptr ? a.bias[row] : 0.0f;
      for (int64_t k = 0; k < a.k; k += kStretch) {
        const int64_t count = std::min(kStretch, a.k - k);
        weight.dequantize_slice(row, k, k + count, values.data());
        for (int64_t m = 0; m < a.m; ++m) {
          float& out = a.out[m * a.out_stride + row];
          const float part = level.dot(values.data(), a.x + m * a.x_stride + k, count);
          out = k > 0 ? out + part : (a.accumulate ? out + (part + bias) : part + bias);
        }
      }
    }
  });
}

struct CanonicalSource {
  const QuantizedTensor* weight;
  void (*pack)(const void* weight, int64_t stride, int64_t rows, int64_t kc, float* panel);

  static void fill(const void* context, int64_t n0, int64_t columns, int64_t k0, int64_t kc, float* panel) {
    const auto& from = *static_cast<const CanonicalSource*>(context);
    alignas(64) std::array<float, size_t{kMaxDepth * kMaxPanel}> values;
    for (int64_t row = 0; row < columns; ++row) {
      from.weight->dequantize_slice(n0 + row, k0, k0 + kc, values.data() + row * kc);
    }
    from.pack(values.data(), kc, columns, kc, panel);
  }
};

void run_canonical_gemm(const LevelKernels& level, const PackedMatmulArgs& a) {
  const CanonicalSource rows{.weight = a.weight->canonical.get(), .pack = level.pack_panel[0]};
  run_gemm(level, a, {.fill = CanonicalSource::fill, .context = &rows});
}

constexpr std::array kPackedKernels{
    // few rows: the codes are the whole cost, so stream them and never write a weight
    PackedKernel{"tile_gemv", true, [](const LevelKernels& level) { return level.tile_gemv_rows; },
                 run_tile_gemv},
    PackedKernel{"tile_gemm", true, [](const LevelKernels&) { return kAnyRows; }, run_tile_gemm},
    // many rows share one decoding either way; below a tile of rows packing them does not pay
    PackedKernel{"canonical_gemv", false, [](const LevelKernels&) { return int64_t{4}; }, run_canonical_gemv},
    PackedKernel{"canonical_gemm", false, [](const LevelKernels&) { return kAnyRows; }, run_canonical_gemm},
};

bool reads(const PackedKernel& kernel, const PackedMatrix& weight) {
  return kernel.tiled ? is_tile_layout(weight.layout) : weight.canonical != nullptr;
}

const PackedKernel& choose(const LevelKernels& level, const PackedMatrix& weight, int64_t m) {
  const auto found = std::ranges::find_if(kPackedKernels, [&](const PackedKernel& kernel) {
    return reads(kernel, weight) && m <= kernel.largest_m(level);
  });
  PARE_ASSERT(found != kPackedKernels.end(), "[packed_matmul] layout {}", weight.layout.name);
  return *found;
}

}  // namespace

// The packed x; the sums of groups are never more.
size_t packed_matmul_workspace_bytes(Isa, const PackedMatrix& weight, int64_t m) {
  if (weight.activation) return int8_workspace_bytes(weight, m);
  return gemm_workspace_bytes(m, weight.in);
}

void packed_matmul(Isa isa, const PackedMatmulArgs& args) {
  if (is_int8_layout(args.weight->layout)) return int8_matmul(isa, args);
  const LevelKernels& level = level_kernels(isa);
  choose(level, *args.weight, args.m).run(level, args);
}

std::string matmul_kernel_name(Isa isa, const PackedMatrix& weight, int64_t m) {
  if (is_int8_layout(weight.layout))
    return fmt::format("{} {}", int8_kernels(isa).front()->name, weight.layout.name);
  return fmt::format("{} {} {}", isa_name(isa), choose(level_kernels(isa), weight, m).name,
                     weight.layout.name);
}

std::vector<std::string_view> packed_matmul_kernels(const PackedMatrix& weight) {
  std::vector<std::string_view> names;
  for (const PackedKernel& kernel : kPackedKernels) {
    if (reads(kernel, weight)) names.push_back(kernel.name);
  }
  return names;
}

void packed_matmul_with(std::string_view kernel, Isa isa, const PackedMatmulArgs& args) {
  const auto found = std::ranges::find(kPackedKernels, kernel, &PackedKernel::name);
  PARE_ASSERT(found != kPackedKernels.end() && reads(*found, *args.weight),
              "[packed_matmul] no kernel {} for {}", kernel, args.weight->layout.name);
  found->run(level_kernels(isa), args);
}

}  // namespace pare::cpu
