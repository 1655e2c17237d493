// engine/backends/cpu/matmul/tile_layout.h: the layouts of the CPU kernels, "cpu-w<bits>-rows<width>".
//
// PackedMatrix of such a layout (see TileMatrix in level.h for the order inside a tile):
//   codes    u8: the tiles one after the other, rows past the end zero; with a codebook of its own, 16 floats
//   follow scales   [tiles, groups, width], f16 when the scheme has f16, else f32 offsets  u8 zero points
//   [tiles, groups, width], or minimums like scales; undefined when symmetric
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/backends/cpu/matmul/level.h"
#include "engine/tensor/packed_layout.h"

namespace pare::cpu {

// Extents that follow from scheme, shape and width.
struct TileGeometry {
  TileForm form;
  int64_t out, in, width;
  int64_t tiles, groups, group_width;
  int64_t codes_per_word;  // 0 when every code has a byte
  int64_t group_bytes, tile_bytes;

  int64_t group_codes(int64_t group) const;  // codes of one row in a group; the last may be shorter
  size_t table_offset() const { return size_t(tiles) * size_t(tile_bytes); }
  size_t code_bytes(const QuantScheme& scheme) const;
};

// Whether a tensor has a tile form; what has none is computed from the canonical form.
bool has_tile_form(const QuantizedTensor& weight);
TileGeometry tile_geometry(const QuantScheme& scheme, int64_t out, int64_t in, int64_t width);
PackedLayout tile_layout(const TileGeometry& geometry);
bool is_tile_layout(const PackedLayout& layout);

// The matrix as kernels of `width` see it; asserts that the layout is theirs.
TileMatrix tile_matrix(const PackedMatrix& packed, int64_t width);

}  // namespace pare::cpu
