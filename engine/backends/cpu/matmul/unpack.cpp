// From the layout of a level back to canonical codes.
#include <cstring>
#include <vector>

#include "engine/backends/cpu/matmul/int8.h"
#include "engine/backends/cpu/matmul/matmul.h"
#include "engine/backends/cpu/matmul/tile_layout.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"

namespace pare::cpu {
namespace {

using Offset = QuantScheme::Offset;

void unpack_row(const PackedMatrix& packed, const TileGeometry& g, int64_t row, uint8_t* codes) {
  const QuantScheme& scheme = packed.scheme;
  const uint8_t flip = scheme.kind == QuantScheme::Kind::integer ? uint8_t(scheme.symmetric_zero_point()) : 0;
  const uint8_t mask = uint8_t(scheme.code_count() - 1);
  const uint8_t* tile = packed.codes.data<uint8_t>() + row / g.width * g.tile_bytes;
  const int64_t lane = row % g.width;
  for (int64_t group = 0; group < g.groups; ++group) {
    const uint8_t* from = tile + group * g.group_bytes;
    uint8_t* to = codes + group * g.group_width;
    for (int64_t i = 0; i < g.group_codes(group); ++i) {
      if (g.codes_per_word == 0) {
        to[i] = uint8_t((from[i * g.width + lane] + flip) & mask);
        continue;
      }
      uint32_t word = 0;
      std::memcpy(&word, from + 4 * (i / g.codes_per_word * g.width + lane), 4);
      to[i] = uint8_t(((word >> (i % g.codes_per_word * scheme.bits)) ^ flip) & mask);
    }
  }
}

// [tiles, groups, width] back to the canonical shape of `to`: whatever it holds for several rows is the same.
template <typename To, typename Convert>
void gather(const TileGeometry& g, Tensor& to, const Convert& convert) {
  To* target = to.mutable_data<To>();
  for (int64_t i = 0; i < to.numel(); ++i) {
    const int64_t row = i / g.groups, group = i % g.groups;
    target[i] = convert((row / g.width * g.groups + group) * g.width + row % g.width);
  }
}

void gather_scales(const TileGeometry& g, const Tensor& from, Tensor& to) {
  if (to.dtype() == DType::f32) {
    gather<float>(g, to, [&](int64_t i) { return from.data<float>()[i]; });
  } else if (to.dtype() == DType::f16) {
    gather<uint16_t>(g, to, [&](int64_t i) { return from.data<uint16_t>()[i]; });
  } else {
    gather<uint16_t>(g, to, [&](int64_t i) { return float_to_bf16(from.data<float>()[i]); });
  }
}

}  // namespace

Result<QuantizedTensor> unpack(const PackedMatrix& packed) {
  PARE_ASSERT(packed.defined(), "[unpack] undefined matrix");
  if (packed.canonical != nullptr) return *packed.canonical;
  if (is_int8_layout(packed.layout)) return int8_unpack(packed);
  PARE_ASSERT(is_tile_layout(packed.layout), "[unpack] layout {}", packed.layout.name);
  const TileGeometry g = tile_geometry(packed.scheme, packed.out, packed.in, packed.layout.row_tile);
  PARE_ASSERT(packed.layout == tile_layout(g), "[unpack] layout {}", packed.layout.name);
  PARE_TRY(QuantizedTensor weight, QuantizedTensor::allocate(packed.scheme, packed.out, packed.in));
  const int64_t row_bytes = packed.scheme.row_bytes(packed.in);
  uint8_t* codes = weight.codes.mutable_data<uint8_t>();
  constexpr int64_t kRowsAtOnce = 64;
  parallel_ranges(packed.out, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> row_codes(static_cast<size_t>(packed.in));
    for (int64_t row = begin; row < end; ++row) {
      unpack_row(packed, g, row, row_codes.data());
      pack_codes(row_codes.data(), packed.in, packed.scheme.bits, codes + row * row_bytes);
    }
  });
  gather_scales(g, packed.scales, weight.scales);
  if (packed.scheme.offset == Offset::zero_point) {
    gather<uint8_t>(g, weight.zero_points, [&](int64_t i) { return packed.offsets.data<uint8_t>()[i]; });
  } else if (packed.scheme.offset == Offset::minimum) {
    gather_scales(g, packed.offsets, weight.minimums);
  }
  if (weight.codebook.defined()) {
    std::memcpy(weight.codebook.mutable_raw(), packed.codes.data<uint8_t>() + g.table_offset(),
                16 * sizeof(float));
  }
  return weight;
}

}  // namespace pare::cpu
