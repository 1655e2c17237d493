// engine/backends/cpu/matmul/int8_geometry.h: extents of the layout in int8.h.
#pragma once

#include <cstdint>

#include "engine/tensor/integer_product.h"

namespace pare::cpu {

struct Int8Geometry {
  IntegerSegments segments;
  int64_t out, width, tiles;
  int64_t quads;        // of one row, all segments
  int64_t group_quads;  // of a whole group

  Int8Geometry(const QuantScheme& scheme, const ActivationQuant& activation, int64_t out_features,
               int64_t in_features, int64_t rows_of_tile);
  static int64_t quads_of(int64_t columns) { return (columns + 3) / 4; }
  // Segments but the last of a group have a multiple of 64 columns.
  int64_t quads_before(int64_t segment) const {
    return segments.group_of(segment) * group_quads + segment % segments.per_group * (segments.widest / 4);
  }
  int64_t tile_bytes() const { return quads * 4 * width; }
};

}  // namespace pare::cpu
