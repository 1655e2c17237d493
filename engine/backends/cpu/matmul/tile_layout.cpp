#include "engine/backends/cpu/matmul/tile_layout.h"

#include <algorithm>
#include <cstring>

#include "engine/core/assert.h"

namespace pare::cpu {
namespace {

using Kind = QuantScheme::Kind;
using Offset = QuantScheme::Offset;

constexpr size_t kTableBytes = 16 * sizeof(float);

bool has_own_table(const QuantScheme& scheme) {
  return scheme.kind == Kind::codebook && scheme.codebook == "custom";
}

int form_bits(TileForm form) {
  switch (form) {
    case TileForm::word2:
      return 2;
    case TileForm::word3:
      return 3;
    case TileForm::word4:
    case TileForm::table4:
      return 4;
    case TileForm::byte_int:
    case TileForm::byte_e4m3:
      break;
  }
  return 8;
}

TileForm form_of(const QuantScheme& scheme) {
  if (scheme.kind == Kind::codebook) return TileForm::table4;
  if (scheme.kind == Kind::floating) return TileForm::byte_e4m3;
  switch (scheme.bits) {
    case 2:
      return TileForm::word2;
    case 3:
      return TileForm::word3;
    case 4:
      return TileForm::word4;
    default:
      return TileForm::byte_int;
  }
}

// A permutation reads four bits of a word, so a shorter code must give its value whatever stands above it.
void fill_table(const PackedMatrix& packed, const TileGeometry& geometry, float (&table)[16]) {
  const QuantScheme& scheme = packed.scheme;
  if (has_own_table(scheme)) {
    std::memcpy(table, packed.codes.data<uint8_t>() + geometry.table_offset(), kTableBytes);
  } else if (scheme.kind == Kind::codebook) {
    std::ranges::copy(nf4_codebook(), table);
  } else if (scheme.kind == Kind::integer && scheme.bits <= 4) {
    const int center = scheme.symmetric_zero_point();
    for (int i = 0; i < 16; ++i) table[i] = float(((i + center) & (scheme.code_count() - 1)) - center);
  }
}

}  // namespace

int64_t TileGeometry::group_codes(int64_t group) const {
  return std::min(group_width, in - group * group_width);
}

size_t TileGeometry::code_bytes(const QuantScheme& scheme) const {
  return table_offset() + (has_own_table(scheme) ? kTableBytes : 0);
}

bool has_tile_form(const QuantizedTensor& weight) {
  if (weight.group_index.defined()) return false;
  switch (weight.scheme.kind) {
    case Kind::integer:
      return true;
    case Kind::codebook:
      return weight.scheme.bits == 4;
    case Kind::floating:
      break;
  }
  if (weight.scheme.float_type != DType::f8_e4m3) return false;
  // The kernels do not know the code for "not a number".
  const uint8_t* codes = weight.codes.data<uint8_t>();
  return std::none_of(codes, codes + weight.codes.numel(),
                      [](uint8_t code) { return (code & 0x7fu) == 0x7fu; });
}

TileGeometry tile_geometry(const QuantScheme& scheme, int64_t out, int64_t in, int64_t width) {
  TileGeometry g = {};
  g.form = form_of(scheme);
  g.out = out;
  g.in = in;
  g.width = width;
  g.tiles = (out + width - 1) / width;
  g.groups = scheme.groups(in);
  g.group_width = std::min(scheme.group_width(in), in);
  const int bits = form_bits(g.form);
  g.codes_per_word = bits == 8 ? 0 : 32 / bits;
  const auto bytes = [&](int64_t codes) {
    if (g.codes_per_word == 0) return codes * width;
    return (codes + g.codes_per_word - 1) / g.codes_per_word * 4 * width;
  };
  g.group_bytes = bytes(g.group_width);
  g.tile_bytes = (g.groups - 1) * g.group_bytes + bytes(g.group_codes(g.groups - 1));
  return g;
}

PackedLayout tile_layout(const TileGeometry& g) {
  return {.name = fmt::format("cpu-w{}-rows{}", form_bits(g.form), g.width),
          .row_tile = int(g.width),
          .column_tile = int(std::max<int64_t>(1, g.codes_per_word))};
}

bool is_tile_layout(const PackedLayout& layout) {
  return layout.name.starts_with("cpu-w");
}

TileMatrix tile_matrix(const PackedMatrix& packed, int64_t width) {
  const TileGeometry g = tile_geometry(packed.scheme, packed.out, packed.in, width);
  PARE_ASSERT(packed.layout == tile_layout(g),
              "[packed_matmul] layout {} of tile {} x {} given to kernels for {}", packed.layout.name,
              packed.layout.row_tile, packed.layout.column_tile, tile_layout(g).name);
  TileMatrix t = {};
  t.codes = packed.codes.data<uint8_t>();
  t.scales = packed.scales.raw();
  t.extras = packed.offsets.defined() ? packed.offsets.raw() : nullptr;
  t.n = packed.out;
  t.k = packed.in;
  t.groups = g.groups;
  t.group_width = g.group_width;
  t.group_bytes = g.group_bytes;
  t.tile_bytes = g.tile_bytes;
  t.center = packed.scheme.kind == Kind::integer ? float(packed.scheme.symmetric_zero_point()) : 0.0f;
  fill_table(packed, g, t.table);
  if (packed.scheme.offset == Offset::zero_point) t.extra = TileMatrix::Extra::zero_point;
  if (packed.scheme.offset == Offset::minimum) t.extra = TileMatrix::Extra::minimum;
  t.half_scales = packed.scales.dtype() == DType::f16;
  return t;
}

}  // namespace pare::cpu
