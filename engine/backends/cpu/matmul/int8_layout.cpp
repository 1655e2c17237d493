// From canonical codes to quads of a tile and back.
#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/backends/cpu/matmul/int8.h"
#include "engine/backends/cpu/matmul/int8_geometry.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"

namespace pare::cpu {
namespace {

float load_scale(const Tensor& scales, int64_t index) {
  switch (scales.dtype()) {
    case DType::f16:
      return f16_to_float(scales.data<uint16_t>()[index]);
    case DType::bf16:
      return bf16_to_float(scales.data<uint16_t>()[index]);
    default:
      return scales.data<float>()[index];
  }
}

// Codes [in] of one row to its lane of a tile, or back.
template <typename Codes, typename Tile, typename Move>
void for_each_code(const Int8Geometry& g, Codes* codes, Tile* lane, const Move& move) {
  for (int64_t s = 0; s < g.segments.count; ++s) {
    const int64_t begin = g.segments.begin(s), count = g.segments.end(s) - begin;
    Tile* quads = lane + g.quads_before(s) * 4 * g.width;
    for (int64_t i = 0; i < count; ++i) move(codes[begin + i], quads[i / 4 * 4 * g.width + i % 4]);
  }
}

}  // namespace

Int8Geometry::Int8Geometry(const QuantScheme& scheme, const ActivationQuant& activation, int64_t out_features,
                           int64_t in_features, int64_t rows_of_tile)
    : segments(scheme, activation, in_features),
      out(out_features),
      width(rows_of_tile),
      tiles((out_features + rows_of_tile - 1) / rows_of_tile) {
  group_quads = quads_of(segments.group_width);
  quads = (segments.groups - 1) * group_quads +
          quads_of(in_features - (segments.groups - 1) * segments.group_width);
}

bool is_int8_layout(const PackedLayout& layout) {
  return layout.name.starts_with("cpu-i8-rows");
}

Result<PackedMatrix> int8_prepack(Isa isa, const QuantizedTensor& weight) {
  PARE_CHECK(check_integer_product(weight.scheme, *weight.activation, weight.group_index.defined()));
  const int64_t width = int8_kernels(isa).front()->width;
  const Int8Geometry g(weight.scheme, *weight.activation, weight.out(), weight.in(), width);
  PackedMatrix packed;
  packed.layout = {.name = fmt::format("cpu-i8-rows{}", width), .row_tile = int(width), .column_tile = 4};
  packed.scheme = weight.scheme;
  packed.activation = weight.activation;
  packed.out = weight.out();
  packed.in = weight.in();
  PARE_TRY(packed.codes, Tensor::allocate(DType::u8, {g.tiles * g.tile_bytes()}));
  PARE_TRY(packed.scales, Tensor::allocate(DType::f32, {g.tiles, g.segments.count, width}));
  PARE_TRY(packed.offsets, Tensor::allocate(DType::i32, {2, g.tiles, g.segments.count, width}));
  uint8_t* codes = packed.codes.mutable_data<uint8_t>();
  float* scales = packed.scales.mutable_data<float>();
  int32_t* zeros = packed.offsets.mutable_data<int32_t>();
  int32_t* sums = zeros + packed.scales.numel();
  const bool is_tensor = weight.scheme.granularity == QuantScheme::Granularity::tensor;
  parallel_for(g.tiles, [&](int64_t tile) {
    std::vector<uint8_t> row_codes(size_t(weight.in()));
    const int64_t end = std::min(width, g.out - tile * width);
    for (int64_t lane = 0; lane < end; ++lane) {
      const int64_t row = tile * width + lane;
      unpack_codes(weight.codes.data<uint8_t>() + row * weight.scheme.row_bytes(weight.in()), weight.in(),
                   weight.scheme.bits, row_codes.data());
      for_each_code(g, row_codes.data(), codes + tile * g.tile_bytes() + 4 * lane,
                    [](uint8_t code, uint8_t& place) { place = code; });
      for (int64_t s = 0; s < g.segments.count; ++s) {
        const int64_t from = is_tensor ? 0 : row * g.segments.groups + g.segments.group_of(s);
        const int64_t to = (tile * g.segments.count + s) * width + lane;
        scales[to] = load_scale(weight.scales, from);
        zeros[to] = weight.zero_points.defined() ? weight.zero_points.data<uint8_t>()[from]
                                                 : weight.scheme.symmetric_zero_point();
        for (int64_t k = g.segments.begin(s); k < g.segments.end(s); ++k)
          sums[to] += row_codes[size_t(k)] - zeros[to];
      }
    }
  });
  return packed;
}

Result<QuantizedTensor> int8_unpack(const PackedMatrix& packed) {
  PARE_ASSERT(is_int8_layout(packed.layout) && packed.activation, "[unpack] layout {}", packed.layout.name);
  const Int8Geometry g(packed.scheme, *packed.activation, packed.out, packed.in, packed.layout.row_tile);
  PARE_TRY(QuantizedTensor weight, QuantizedTensor::allocate(packed.scheme, packed.out, packed.in));
  weight.activation = packed.activation;
  uint8_t* codes = weight.codes.mutable_data<uint8_t>();
  constexpr int64_t kRowsAtOnce = 64;
  parallel_ranges(packed.out, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> row_codes(size_t(packed.in));
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* lane =
          packed.codes.data<uint8_t>() + row / g.width * g.tile_bytes() + 4 * (row % g.width);
      for_each_code(g, row_codes.data(), lane, [](uint8_t& code, uint8_t place) { code = place; });
      pack_codes(row_codes.data(), packed.in, packed.scheme.bits,
                 codes + row * packed.scheme.row_bytes(packed.in));
    }
  });
  for (int64_t i = 0; i < weight.scales.numel(); ++i) {
    const int64_t row = i / g.segments.groups, segment = i % g.segments.groups * g.segments.per_group;
    const int64_t from = (row / g.width * g.segments.count + segment) * g.width + row % g.width;
    const float scale = packed.scales.data<float>()[from];
    if (weight.scales.dtype() == DType::f32) {
      weight.scales.mutable_data<float>()[i] = scale;
    } else {
      weight.scales.mutable_data<uint16_t>()[i] =
          weight.scales.dtype() == DType::f16 ? float_to_f16(scale) : float_to_bf16(scale);
    }
    if (weight.zero_points.defined())
      weight.zero_points.mutable_data<uint8_t>()[i] = uint8_t(packed.offsets.data<int32_t>()[from]);
  }
  return weight;
}

}  // namespace pare::cpu
