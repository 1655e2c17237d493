// Integer products: activations are rounded into panels, then every tile of codes meets every panel.
#include "engine/backends/cpu/matmul/int8.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "engine/backends/cpu/matmul/int8_geometry.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"

namespace pare::cpu {
namespace {

constexpr size_t kLine = 64;
constexpr int64_t kChunk = 512;  // codes rounded at a time; a multiple of 4

size_t lines(size_t bytes) {
  return (bytes + kLine - 1) / kLine * kLine;
}

// Panels of nearly equal height, the first `tall` of `height` rows and the others one less.
struct Panels {
  int64_t count, height, tall;
  Panels(int64_t rows, int64_t tallest) {
    count = (rows + tallest - 1) / tallest;
    height = (rows + count - 1) / count;
    tall = count - (height * count - rows);
  }
  int64_t begin(int64_t panel) const { return panel * height - std::max<int64_t>(0, panel - tall); }
  int64_t rows(int64_t panel) const { return panel < tall ? height : height - 1; }
};

// One product: where everything lies.
struct Product {
  const Int8Kernels& kernels;
  const PackedMatmulArgs& a;
  Int8Geometry g;
  Panels panels;
  float* scales;   // [m]
  int32_t* zeros;  // [m]
  int32_t* sums;   // [m][segments]
  int32_t* words;  // per panel [quads][rows][words]

  Product(const Int8Kernels& chosen, const PackedMatmulArgs& args)
      : kernels(chosen),
        a(args),
        g(args.weight->scheme, *args.weight->activation, args.n, args.k, chosen.width),
        panels(args.m, chosen.rows) {
    auto* next = static_cast<std::byte*>(args.workspace);
    const auto take = [&](size_t bytes) { return std::exchange(next, next + lines(bytes)); };
    scales = reinterpret_cast<float*>(take(size_t(a.m) * sizeof(float)));
    zeros = reinterpret_cast<int32_t*>(take(size_t(a.m) * sizeof(int32_t)));
    sums = reinterpret_cast<int32_t*>(take(size_t(a.m * g.segments.count) * sizeof(int32_t)));
    words = reinterpret_cast<int32_t*>(next);
  }
  int32_t* panel(int64_t index) const { return words + panels.begin(index) * g.quads * kernels.words; }
};

// Quads of a row, one every `step` words.
void place_quads(const int8_t* codes, int64_t quads, int words, int64_t step, int32_t* to) {
  for (int64_t q = 0; q < quads; ++q, codes += 4, to += step) {
    if (words == 1) {
      std::memcpy(to, codes, 4);
      continue;
    }
    const std::array<int16_t, 4> wide{codes[0], codes[2], codes[1], codes[3]};
    std::memcpy(to, wide.data(), sizeof wide);
  }
}

RoundedRow grid_of(const Int8Kernels& kernels, const ActivationQuant& activation, const float* x,
                   int64_t count) {
  const int32_t bits = kernels.largest_bits(x, count);
  const float largest = std::bit_cast<float>(bits);
  if (!std::isfinite(largest)) return {.scale = std::numeric_limits<float>::quiet_NaN(), .zero_point = 0};
  const bool needs_range = !activation.symmetric && activation.mode == ActivationQuant::Mode::dynamic_token;
  if (!needs_range) return activation_grid(activation, 0.0f, largest);
  float low = 0.0f, high = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  return activation_grid(activation, low, high);
}

void round_row(const Product& p, int64_t panel, int64_t r) {
  const ActivationQuant& activation = *p.a.weight->activation;
  const int64_t m = p.panels.begin(panel) + r, rows = p.panels.rows(panel);
  const float* x = p.a.x + m * p.a.x_stride;
  const RoundedRow grid = grid_of(p.kernels, activation, x, p.a.k);
  const bool is_finite = std::isfinite(grid.scale);
  p.scales[m] = grid.scale;
  p.zeros[m] = grid.zero_point;
  const int64_t step = rows * p.kernels.words;
  alignas(64) std::array<int8_t, size_t{kChunk}> codes;
  for (int64_t s = 0; s < p.g.segments.count; ++s) {
    int32_t* to = p.panel(panel) + p.g.quads_before(s) * step + r * p.kernels.words;
    int32_t sum = 0;
    for (int64_t k = p.g.segments.begin(s); k < p.g.segments.end(s); k += kChunk) {
      const int64_t count = std::min(kChunk, p.g.segments.end(s) - k);
      const int64_t quads = Int8Geometry::quads_of(count);
      std::fill(codes.begin() + count / 4 * 4, codes.begin() + quads * 4, int8_t{0});
      if (is_finite) {
        sum += p.kernels.round({.x = x + k,
                                .codes = codes.data(),
                                .count = count,
                                .scale = grid.scale,
                                .bottom = float(activation.lowest_code() - grid.zero_point),
                                .top = float(activation.highest_code() - grid.zero_point),
                                .zero_point = grid.zero_point});
      } else {
        std::fill_n(codes.begin(), count, int8_t{0});
      }
      place_quads(codes.data(), quads, p.kernels.words, step, to);
      to += quads * step;
    }
    p.sums[m * p.g.segments.count + s] = sum;
  }
}

// Two tiles (or the last one alone) against panels [first, end).
void multiply(const Product& p, int64_t pair, int64_t first, int64_t end) {
  const int64_t tile = 2 * pair, tiles = std::min<int64_t>(2, p.g.tiles - tile);
  const int64_t column = tile * p.g.width, at = tile * p.g.segments.count * p.g.width;
  const int32_t* zeros = p.a.weight->offsets.data<int32_t>();
  Int8Tile t = {};
  t.codes = p.a.weight->codes.data<uint8_t>() + tile * p.g.tile_bytes();
  t.scales = p.a.weight->scales.data<float>() + at;
  t.zeros = zeros + at;
  t.sums = zeros + p.a.weight->scales.numel() + at;
  t.bias = p.a.bias != nullptr ? p.a.bias + column : nullptr;
  t.tile_bytes = p.g.tile_bytes();
  t.segments = p.g.segments.count;
  t.k = p.a.k;
  t.group_width = p.g.segments.group_width;
  t.widest = p.g.segments.widest;
  t.out_stride = p.a.out_stride;
  t.columns = std::min(tiles * p.g.width, p.a.n - column);
  t.accumulate = p.a.accumulate;
  for (int64_t panel = first; panel < end; ++panel) {
    const int64_t m = p.panels.begin(panel);
    t.x = p.panel(panel);
    t.x_scales = p.scales + m;
    t.x_zeros = p.zeros + m;
    t.x_sums = p.sums + m * p.g.segments.count;
    t.out = p.a.out + m * p.a.out_stride + column;
    p.kernels.tile[tiles - 1][p.panels.rows(panel)](t);
  }
}

}  // namespace

std::vector<const Int8Kernels*> int8_kernels(Isa isa) {
  std::vector<const Int8Kernels*> list;
  switch (isa) {
    case Isa::avx512:
      if (host_has("avx512_vnni")) list.push_back(&avx512_vnni::kInt8Kernels);
      list.push_back(&avx512::kInt8Kernels);
      break;
    case Isa::avx2:
      if (host_has("avx_vnni")) list.push_back(&avx_vnni::kInt8Kernels);
      list.push_back(&avx2::kInt8Kernels);
      break;
    case Isa::generic:
      list.push_back(&generic::kInt8Kernels);
      break;
  }
  return list;
}

size_t int8_workspace_bytes(const PackedMatrix& weight, int64_t m) {
  const Int8Geometry g(weight.scheme, *weight.activation, weight.out, weight.in, 1);
  constexpr int64_t kMostWords = 2;
  return 2 * lines(size_t(m) * 4) + lines(size_t(m * g.segments.count) * 4) +
         size_t(m * g.quads * kMostWords) * sizeof(int32_t);
}

void int8_matmul_with(const Int8Kernels& kernels, const PackedMatmulArgs& a) {
  PARE_ASSERT(is_int8_layout(a.weight->layout) && a.weight->layout.row_tile == kernels.width,
              "[packed_matmul] layout {} given to {}", a.weight->layout.name, kernels.name);
  constexpr int64_t kRowsAtOnce = 4;  // panels rounded as one piece of work
  constexpr int64_t kRowBlock = 512;  // rows that meet a pair of tiles while it lies in a near cache
  constexpr int64_t kBytesAtOnce =
      65536;  // codes of a piece of work with few rows: enough to outweigh handing it out
  const Product p(kernels, a);
  parallel_ranges(p.panels.count, kRowsAtOnce, [&](int64_t first, int64_t end) {
    for (int64_t panel = first; panel < end; ++panel) {
      for (int64_t r = 0; r < p.panels.rows(panel); ++r) round_row(p, panel, r);
    }
  });
  const int64_t pairs = (p.g.tiles + 1) / 2;
  const int64_t block = (kRowBlock + kernels.rows - 1) / kernels.rows;
  const int64_t blocks = (p.panels.count + block - 1) / block;
  const int64_t grain =
      std::max<int64_t>(1, kBytesAtOnce / (2 * p.g.tile_bytes() * std::min<int64_t>(a.m, 16)));
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = b * block, end = std::min(p.panels.count, first + block);
    parallel_ranges(pairs, grain, [&](int64_t pair, int64_t pair_end) {
      for (; pair < pair_end; ++pair) multiply(p, pair, first, end);
    });
  }
}

void int8_matmul(Isa isa, const PackedMatmulArgs& args) {
  // Chosen once: the list allocates, a product must not.
  static const std::array<const Int8Kernels*, 3> kFirst{
      int8_kernels(Isa::generic).front(), int8_kernels(Isa::avx2).front(), int8_kernels(Isa::avx512).front()};
  int8_matmul_with(*kFirst[size_t(isa)], args);
}

}  // namespace pare::cpu
