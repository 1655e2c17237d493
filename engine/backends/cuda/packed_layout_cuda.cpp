#include "engine/backends/cuda/packed_layout_cuda.h"

#include <algorithm>
#include <cstring>

#include "engine/backends/cuda/packed_fragments.h"
#include "engine/core/assert.h"

namespace pare::cuda {
namespace {

using Kind = QuantScheme::Kind;
using Granularity = QuantScheme::Granularity;
using Offset = QuantScheme::Offset;

constexpr int64_t kAlignment = 256;     // of the parts behind the tiles
constexpr int64_t kSpareCounters = 64;  // beside two per tile

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
constexpr int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

// Groups of `columns` in such numbers that they fill whole blocks.
int64_t padded_groups(int64_t groups, int64_t columns) {
  const int64_t together = columns % kBlockColumns == 0 ? 1 : columns % (kBlockColumns / 2) == 0 ? 2 : 4;
  return round_up(groups, together);
}

// Per-group numbers between the canonical tensor and [tiles, groups, 16]; `place(to, from)` moves one
// element.
template <typename Place>
void for_each_group(const FragmentGeometry& g, const ColumnMap& map, const QuantScheme& scheme,
                    const Place& place) {
  const bool is_one = scheme.granularity == Granularity::tensor;
  const int64_t groups = scheme.groups(g.in);
  for (int64_t row = 0; row < g.out; ++row) {
    for (int64_t group = 0; group < g.groups; ++group) {
      const int64_t source = map.group_of.empty() ? group : map.group_of[size_t(group)];
      if (source < 0 || source >= groups) continue;
      const int64_t packed =
          (row / kTileRows * g.groups + group) * kTileRows + scale_place(int(row % kTileRows));
      place(packed, is_one ? 0 : row * groups + source);
    }
  }
}

void spread(const FragmentGeometry& g, const ColumnMap& map, const QuantScheme& scheme, const Tensor& from,
            const Tensor& to) {
  const auto width = size_t(dtype_bytes(from.dtype()));
  for_each_group(g, map, scheme, [&](int64_t packed, int64_t canonical) {
    std::memcpy(to.mutable_raw() + size_t(packed) * width, from.raw() + size_t(canonical) * width, width);
  });
}

void gather(const FragmentGeometry& g, const ColumnMap& map, const QuantScheme& scheme, const Tensor& from,
            const Tensor& to) {
  const auto width = size_t(dtype_bytes(from.dtype()));
  for_each_group(g, map, scheme, [&](int64_t packed, int64_t canonical) {
    std::memcpy(to.mutable_raw() + size_t(canonical) * width, from.raw() + size_t(packed) * width, width);
  });
}

// The map that pack_fragments() left behind the tiles.
ColumnMap stored_map(const FragmentGeometry& g, const PackedMatrix& packed) {
  ColumnMap map{.order = g.order, .column_of = {}, .group_of = {}};
  if (g.order == ColumnOrder::plain) return map;
  map.column_of.resize(size_t(g.columns()));
  map.group_of.resize(size_t(g.groups));
  const std::byte* from = packed.codes.raw() + g.map_offset;
  std::memcpy(map.column_of.data(), from, map.column_of.size() * sizeof(int32_t));
  std::memcpy(map.group_of.data(), from + g.columns() * int64_t(sizeof(int32_t)),
              map.group_of.size() * sizeof(int32_t));
  return map;
}

}  // namespace

ColumnMap column_map(const QuantScheme& scheme, int64_t in, const Tensor& group_index) {
  ColumnMap map;
  if (scheme.granularity != Granularity::group) return map;
  const bool is_indexed = group_index.defined();
  const int64_t width = scheme.group_size, columns = round_up(width, kStepColumns);
  if (!is_indexed && width % kStepColumns == 0) return map;
  map.order = is_indexed ? ColumnOrder::indexed : ColumnOrder::padded;
  std::vector<std::vector<int32_t>> members(size_t(scheme.groups(in)));
  for (int64_t column = 0; column < in; ++column) {
    const int64_t group = is_indexed ? group_index.data<int32_t>()[column] : column / width;
    members[size_t(group)].push_back(int32_t(column));
  }
  for (size_t group = 0; group < members.size(); ++group) {
    // a group may have more columns than its share, or none: it still keeps its scales
    size_t taken = 0;
    do {
      const size_t here = std::min(members[group].size() - taken, size_t(width));
      for (size_t i = 0; i < size_t(columns); ++i)
        map.column_of.push_back(i < here ? members[group][taken + i] : -1);
      map.group_of.push_back(int32_t(group));
      taken += here;
    } while (taken < members[group].size());
  }
  const auto groups = size_t(padded_groups(int64_t(map.group_of.size()), columns));
  map.group_of.resize(groups, -1);
  map.column_of.resize(groups * size_t(columns), -1);
  return map;
}

FragmentGeometry fragment_geometry(const QuantScheme& scheme, int64_t out, int64_t in, ColumnOrder order,
                                   int64_t groups) {
  FragmentGeometry g{};
  g.bits = scheme.bits;
  g.order = order;
  g.out = out;
  g.in = in;
  g.tiles = ceil_div(out, kTileRows);
  const bool is_grouped = scheme.granularity == Granularity::group;
  if (order == ColumnOrder::plain) {
    g.blocks = ceil_div(in, kBlockColumns);
    g.group_columns = is_grouped ? scheme.group_size : g.columns();
    g.groups = ceil_div(g.columns(), g.group_columns);
  } else {
    g.group_columns = round_up(scheme.group_size, kStepColumns);
    g.groups = order == ColumnOrder::indexed ? groups : padded_groups(scheme.groups(in), g.group_columns);
    g.blocks = g.groups * g.group_columns / kBlockColumns;
  }
  g.planes = planes_of(g.bits);
  for (size_t i = 0; i < g.planes.size(); ++i) {
    g.plane_offsets[i] = g.tile_bytes;
    g.tile_bytes += ceil_div(g.blocks * g.planes[i], 4) * kPieceBytes;
  }
  const bool has_table = scheme.kind == Kind::codebook, has_map = order != ColumnOrder::plain;
  g.table_offset = round_up(g.tiles * g.tile_bytes, kAlignment);
  g.map_offset = round_up(g.table_offset + (has_table ? scheme.code_count() * 4 : 0), kAlignment);
  g.counter_offset = round_up(g.map_offset + (has_map ? (g.columns() + g.groups) * 4 : 0), kAlignment);
  g.code_bytes = g.counter_offset + (2 * g.tiles + kSpareCounters) * 4;
  return g;
}

FragmentGeometry fragment_geometry(const QuantScheme& scheme, int64_t out, const ColumnMap& map, int64_t in) {
  return fragment_geometry(scheme, out, in, map.order, int64_t(map.group_of.size()));
}

PackedLayout fragment_layout(ColumnOrder order) {
  constexpr std::array<const char*, 3> kNames{"cuda-fragments", "cuda-fragments-padded",
                                              "cuda-fragments-indexed"};
  return {.name = kNames[size_t(order)], .row_tile = kTileRows, .column_tile = kBlockColumns};
}

bool is_fragment_layout(const PackedLayout& layout) {
  return layout == fragment_layout(ColumnOrder::plain) || layout == fragment_layout(ColumnOrder::padded) ||
         layout == fragment_layout(ColumnOrder::indexed);
}

FragmentGeometry fragment_geometry(const PackedMatrix& packed) {
  PARE_ASSERT(is_fragment_layout(packed.layout), "[packed_matmul] layout {}", packed.layout.name);
  ColumnOrder order = ColumnOrder::plain;
  for (const ColumnOrder candidate : {ColumnOrder::padded, ColumnOrder::indexed}) {
    if (packed.layout == fragment_layout(candidate)) order = candidate;
  }
  return fragment_geometry(packed.scheme, packed.out, packed.in, order, packed.scales.size(1));
}

std::vector<float> codebook_values(const QuantizedTensor& weight) {
  if (weight.scheme.kind != Kind::codebook) return {};
  if (!weight.codebook.defined()) return {nf4_codebook().begin(), nf4_codebook().end()};
  const float* values = weight.codebook.data<float>();
  return {values, values + weight.scheme.code_count()};
}

Result<PackedMatrix> pack_fragments(const QuantizedTensor& weight) {
  const QuantScheme& scheme = weight.scheme;
  const ColumnMap map = column_map(scheme, weight.in(), weight.group_index);
  const FragmentGeometry g = fragment_geometry(scheme, weight.out(), map, weight.in());
  PackedMatrix packed;
  packed.layout = fragment_layout(map.order);
  packed.scheme = scheme;
  packed.out = g.out;
  packed.in = g.in;
  PARE_TRY(packed.codes, Tensor::allocate(DType::u8, {g.code_bytes}));
  std::vector<uint8_t> codes(size_t(g.in));
  for (int64_t row = 0; row < g.out; ++row) {
    unpack_codes(weight.codes.data<uint8_t>() + row * scheme.row_bytes(g.in), g.in, scheme.bits,
                 codes.data());
    for (int64_t position = 0; position < g.columns(); ++position) {
      const int64_t column = map.column_of.empty() ? position : map.column_of[size_t(position)];
      if (column < 0 || column >= g.in) continue;
      uint32_t code = codes[size_t(column)];
      for (size_t plane = 0; plane < g.planes.size() && g.planes[plane] > 0; ++plane) {
        const int width = g.planes[plane];
        const CodePlace place = code_place(width, int(row % kTileRows), position);
        uint32_t* words = reinterpret_cast<uint32_t*>(
            packed.codes.mutable_raw() + row / kTileRows * g.tile_bytes + g.plane_offsets[plane]);
        words[place.word] |= (code & ((1u << width) - 1)) << place.shift;
        code >>= width;
      }
    }
  }
  const std::vector<float> table = codebook_values(weight);
  if (!table.empty())
    std::memcpy(packed.codes.mutable_raw() + g.table_offset, table.data(), table.size() * sizeof(float));
  if (map.order != ColumnOrder::plain) {
    std::byte* to = packed.codes.mutable_raw() + g.map_offset;
    std::memcpy(to, map.column_of.data(), map.column_of.size() * sizeof(int32_t));
    std::memcpy(to + g.columns() * int64_t(sizeof(int32_t)), map.group_of.data(),
                map.group_of.size() * sizeof(int32_t));
  }
  const Shape groups{g.tiles, g.groups, kTileRows};
  PARE_TRY(packed.scales, Tensor::allocate(scheme.scale_dtype, groups));
  spread(g, map, scheme, weight.scales, packed.scales);
  if (scheme.offset != Offset::none) {
    const Tensor& from = scheme.offset == Offset::zero_point ? weight.zero_points : weight.minimums;
    PARE_TRY(packed.offsets, Tensor::allocate(from.dtype(), groups));
    spread(g, map, scheme, from, packed.offsets);
  }
  return packed;
}

Result<QuantizedTensor> unpack_fragments(const PackedMatrix& packed) {
  const QuantScheme& scheme = packed.scheme;
  const FragmentGeometry g = fragment_geometry(packed);
  const ColumnMap map = stored_map(g, packed);
  PARE_TRY(QuantizedTensor weight, QuantizedTensor::allocate(scheme, g.out, g.in));
  std::vector<uint8_t> codes(size_t(g.in));
  for (int64_t row = 0; row < g.out; ++row) {
    for (int64_t position = 0; position < g.columns(); ++position) {
      const int64_t column = map.column_of.empty() ? position : map.column_of[size_t(position)];
      if (column < 0 || column >= g.in) continue;
      uint32_t code = 0;
      int shift = 0;
      for (size_t plane = 0; plane < g.planes.size() && g.planes[plane] > 0; ++plane) {
        const int width = g.planes[plane];
        const CodePlace place = code_place(width, int(row % kTileRows), position);
        const uint32_t* words = reinterpret_cast<const uint32_t*>(
            packed.codes.raw() + row / kTileRows * g.tile_bytes + g.plane_offsets[plane]);
        code |= (words[place.word] >> place.shift & ((1u << width) - 1)) << shift;
        shift += width;
      }
      codes[size_t(column)] = uint8_t(code);
    }
    pack_codes(codes.data(), g.in, scheme.bits,
               weight.codes.mutable_data<uint8_t>() + row * scheme.row_bytes(g.in));
  }
  gather(g, map, scheme, packed.scales, weight.scales);
  if (scheme.offset == Offset::zero_point) gather(g, map, scheme, packed.offsets, weight.zero_points);
  if (scheme.offset == Offset::minimum) gather(g, map, scheme, packed.offsets, weight.minimums);
  if (weight.codebook.defined())
    std::memcpy(weight.codebook.mutable_raw(), packed.codes.raw() + g.table_offset,
                weight.codebook.size_bytes());
  if (map.order == ColumnOrder::indexed) {
    PARE_TRY(weight.group_index, Tensor::allocate(DType::i32, {g.in}));
    for (int64_t position = 0; position < g.columns(); ++position) {
      const int32_t column = map.column_of[size_t(position)];
      if (column >= 0)
        weight.group_index.mutable_data<int32_t>()[column] = map.group_of[size_t(position / g.group_columns)];
    }
  }
  return weight;
}

FragmentMatrix fragment_matrix(const PackedMatrix& packed) {
  const FragmentGeometry g = fragment_geometry(packed);
  const QuantScheme& scheme = packed.scheme;
  PARE_ASSERT(g.out <= INT32_MAX - kTileRows && g.columns() <= kMaxFragmentColumns,
              "[packed_matmul] [{}, {}]", g.out, g.in);
  FragmentMatrix m{};
  const std::byte* codes = packed.codes.raw();
  m.codes = reinterpret_cast<const unsigned char*>(codes);
  m.scales = packed.scales.raw();
  m.offsets = packed.offsets.defined() ? packed.offsets.raw() : nullptr;
  if (scheme.kind == Kind::codebook) m.table = reinterpret_cast<const float*>(codes + g.table_offset);
  if (g.order != ColumnOrder::plain) m.columns_of = reinterpret_cast<const int32_t*>(codes + g.map_offset);
  m.arrivals = reinterpret_cast<unsigned*>(packed.codes.mutable_raw() + g.counter_offset);
  m.tile_bytes = g.tile_bytes;
  for (size_t i = 0; i < g.planes.size(); ++i) {
    if (g.planes[i] == 2) m.offset_of_2 = g.plane_offsets[i];
    if (g.planes[i] == 1) m.offset_of_1 = g.plane_offsets[i];
  }
  m.out = int32_t(g.out);
  m.in = int32_t(g.in);
  m.tiles = int32_t(g.tiles);
  m.blocks = int32_t(g.blocks);
  m.groups = int32_t(g.groups);
  m.group_columns = int32_t(g.group_columns);
  const int64_t steps = g.group_columns / kStepColumns;  // one has no reciprocal below 2^32, and needs none
  m.group_reciprocal = steps == 1 ? 0 : uint32_t((uint64_t{1} << 32) / uint64_t(steps) + 1);
  m.bits = g.bits;
  m.zero = scheme.kind == Kind::integer && scheme.is_symmetric() ? scheme.symmetric_zero_point() : 0;
  m.kind = scheme.kind == Kind::integer          ? CodeKind::integer
           : scheme.kind == Kind::codebook       ? CodeKind::codebook
           : scheme.float_type == DType::f8_e4m3 ? CodeKind::e4m3
                                                 : CodeKind::e5m2;
  m.scale_type = scheme.scale_dtype == DType::f16    ? ScaleType::f16
                 : scheme.scale_dtype == DType::bf16 ? ScaleType::bf16
                                                     : ScaleType::f32;
  m.offset = scheme.offset == Offset::none         ? GridOffset::none
             : scheme.offset == Offset::zero_point ? GridOffset::zero_point
                                                   : GridOffset::minimum;
  return m;
}

int steps_per_grid(const FragmentMatrix& w) {
  if (w.groups == 1 || w.group_columns % kBlockColumns == 0) return 4;
  return w.group_columns % (kBlockColumns / 2) == 0 ? 2 : 1;
}

FragmentFormat fragment_format(const FragmentMatrix& w) {
  if (w.scale_type == ScaleType::f32 || steps_per_grid(w) == 1) return FragmentFormat::any;
  if (w.kind == CodeKind::integer && w.bits == 4) return FragmentFormat::w4;
  if (w.kind == CodeKind::integer && w.bits == 8) return FragmentFormat::w8;
  if (w.kind == CodeKind::codebook && w.bits == 4) return FragmentFormat::codebook4;
  return FragmentFormat::any;
}

}  // namespace pare::cuda
