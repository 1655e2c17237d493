// From canonical codes to the layout of a level, tile by tile and in parallel.
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "engine/backends/cpu/matmul/int8.h"
#include "engine/backends/cpu/matmul/matmul.h"
#include "engine/backends/cpu/matmul/tile_layout.h"
#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/integer_product.h"

namespace pare::cpu {
namespace {

using Kind = QuantScheme::Kind;
using Offset = QuantScheme::Offset;

static_assert(std::endian::native == std::endian::little, "words are read as canonical bytes");

// Byte j of rows[i] becomes byte i of rows[j].
void transpose_bytes(std::array<uint64_t, 8>& rows) {
  const auto swap_parts = [&](size_t distance, int shift, uint64_t mask) {
    for (size_t i = 0; i < 8; ++i) {
      if ((i & distance) != 0) continue;
      const uint64_t moved = ((rows[i] >> shift) ^ rows[i + distance]) & mask;
      rows[i + distance] ^= moved;
      rows[i] ^= moved << shift;
    }
  };
  swap_parts(1, 8, 0x00ff00ff00ff00ffu);
  swap_parts(2, 16, 0x0000ffff0000ffffu);
  swap_parts(4, 32, 0x00000000ffffffffu);
}

class TilePacker {
 public:
  TilePacker(const QuantizedTensor& from, const TileGeometry& geometry, uint8_t* to)
      : from_(from), g_(geometry), to_(to), row_bytes_(from.scheme.row_bytes(geometry.in)) {
    if (from.scheme.kind == Kind::integer) flip_ = uint8_t(from.scheme.symmetric_zero_point());
  }

  void pack(int64_t tile) const {
    uint8_t* to = to_ + tile * g_.tile_bytes;
    const int64_t rows = std::min(g_.width, g_.out - tile * g_.width);
    const uint8_t* codes = from_.codes.data<uint8_t>() + tile * g_.width * row_bytes_;
    if (g_.codes_per_word == 0) {
      pack_bytes(codes, rows, to);
    } else {
      for (int64_t row = 0; row < rows; ++row) pack_words(codes + row * row_bytes_, to + 4 * row);
    }
  }

 private:
  // Codes of 2 and 4 bits fill words exactly, so a canonical word is a tile word.
  void pack_words(const uint8_t* row, uint8_t* to) const {
    const int bits = from_.scheme.bits;
    const int64_t per_word = g_.codes_per_word, step = 4 * g_.width;
    uint32_t flip_word = 0;
    for (int64_t i = 0; i < per_word; ++i) flip_word |= uint32_t(flip_) << (i * bits);
    std::vector<uint8_t> codes;
    if (bits == 3 || g_.group_width % per_word != 0 || g_.in % per_word != 0) {
      codes.resize(size_t(g_.in));
      unpack_codes(row, g_.in, bits, codes.data());
    }
    for (int64_t group = 0; group < g_.groups; ++group) {
      const int64_t count = g_.group_codes(group), begin = group * g_.group_width;
      uint8_t* word_to = to + group * g_.group_bytes;
      for (int64_t first = 0; first < count; first += per_word, word_to += step) {
        uint32_t word = 0;
        if (codes.empty()) {
          std::memcpy(&word, row + (begin + first) * bits / 8, 4);
          word ^= flip_word;
        } else {
          const int64_t here = std::min(per_word, count - first);
          for (int64_t i = 0; i < here; ++i) {
            word |= uint32_t(codes[size_t(begin + first + i)] ^ flip_) << (i * bits);
          }
        }
        std::memcpy(word_to, &word, 4);
      }
    }
  }

  // Groups need no padding here: a tile is the matrix [in, width].
  void pack_bytes(const uint8_t* rows_from, int64_t rows, uint8_t* to) const {
    std::vector<uint8_t> unpacked;
    int64_t stride = row_bytes_;
    uint8_t flip = flip_;
    if (from_.scheme.bits != 8) {
      unpacked.resize(size_t(rows * g_.in));
      for (int64_t row = 0; row < rows; ++row) {
        uint8_t* codes = unpacked.data() + row * g_.in;
        unpack_codes(rows_from + row * row_bytes_, g_.in, from_.scheme.bits, codes);
        for (int64_t i = 0; i < g_.in; ++i) codes[i] = uint8_t(codes[i] - flip_);
      }
      rows_from = unpacked.data();
      stride = g_.in;
      flip = 0;
    }
    const int64_t whole = rows == g_.width ? g_.in / 8 * 8 : 0;
    for (int64_t k = 0; k < whole; k += 8) {
      for (int64_t part = 0; part < g_.width; part += 8) {
        std::array<uint64_t, 8> block;
        for (size_t r = 0; r < 8; ++r)
          std::memcpy(&block[r], rows_from + (part + int64_t(r)) * stride + k, 8);
        transpose_bytes(block);
        const uint64_t flips = 0x0101010101010101u * flip;
        for (size_t r = 0; r < 8; ++r) {
          const uint64_t value = block[r] ^ flips;
          std::memcpy(to + (k + int64_t(r)) * g_.width + part, &value, 8);
        }
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t k = whole; k < g_.in; ++k)
        to[k * g_.width + row] = uint8_t(rows_from[row * stride + k] ^ flip);
    }
  }

  const QuantizedTensor& from_;
  const TileGeometry& g_;
  uint8_t* to_;
  int64_t row_bytes_;
  uint8_t flip_ = 0;  // turns a code into two's complement
};

// Index of the scale of a row and group in the canonical tensor.
int64_t canonical_index(const QuantizedTensor& weight, const TileGeometry& g, int64_t row, int64_t group) {
  return weight.scheme.granularity == QuantScheme::Granularity::tensor ? 0 : row * g.groups + group;
}

// Per-group numbers [out, groups] to [tiles, groups, width]; `convert` makes the stored element of element
// `index`.
template <typename To, typename Convert>
void spread(const QuantizedTensor& weight, const TileGeometry& g, To* to, const Convert& convert) {
  for (int64_t row = 0; row < g.out; ++row) {
    for (int64_t group = 0; group < g.groups; ++group) {
      to[(row / g.width * g.groups + group) * g.width + row % g.width] =
          convert(canonical_index(weight, g, row, group));
    }
  }
}

void spread_scales(const QuantizedTensor& weight, const TileGeometry& g, const Tensor& from, Tensor& to) {
  if (from.dtype() == DType::f32) {
    spread(weight, g, to.mutable_data<float>(), [&](int64_t i) { return from.data<float>()[i]; });
  } else if (from.dtype() == DType::f16) {
    spread(weight, g, to.mutable_data<uint16_t>(), [&](int64_t i) { return from.data<uint16_t>()[i]; });
  } else {
    spread(weight, g, to.mutable_data<float>(),
           [&](int64_t i) { return bf16_to_float(from.data<uint16_t>()[i]); });
  }
}

}  // namespace

Result<PackedMatrix> prepack(Isa isa, std::shared_ptr<const QuantizedTensor> weight) {
  if (weight->activation) {
    if (weight->out() > 0 && weight->in() > 0) return int8_prepack(isa, *weight);
    PARE_CHECK(check_integer_product(weight->scheme, *weight->activation, weight->group_index.defined()));
  }
  PackedMatrix packed;
  packed.scheme = weight->scheme;
  packed.activation = weight->activation;
  packed.out = weight->out();
  packed.in = weight->in();
  if (packed.out == 0 || packed.in == 0 || !has_tile_form(*weight)) {
    packed.canonical = std::move(weight);
    return packed;
  }
  const TileGeometry g = tile_geometry(packed.scheme, packed.out, packed.in, level_kernels(isa).width);
  packed.layout = tile_layout(g);
  const Shape groups{g.tiles, g.groups, g.width};
  const DType scale_dtype = packed.scheme.scale_dtype == DType::f16 ? DType::f16 : DType::f32;
  PARE_TRY(packed.codes, Tensor::allocate(DType::u8, {int64_t(g.code_bytes(packed.scheme))}));
  PARE_TRY(packed.scales, Tensor::allocate(scale_dtype, groups));
  const TilePacker packer(*weight, g, packed.codes.mutable_data<uint8_t>());
  constexpr int64_t kTilesAtOnce = 4;
  parallel_ranges(g.tiles, kTilesAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) packer.pack(tile);
  });
  spread_scales(*weight, g, weight->scales, packed.scales);
  if (packed.scheme.offset == Offset::zero_point) {
    PARE_TRY(packed.offsets, Tensor::allocate(DType::u8, groups));
    spread(*weight, g, packed.offsets.mutable_data<uint8_t>(),
           [&](int64_t i) { return weight->zero_points.data<uint8_t>()[i]; });
  } else if (packed.scheme.offset == Offset::minimum) {
    PARE_TRY(packed.offsets, Tensor::allocate(scale_dtype, groups));
    spread_scales(*weight, g, weight->minimums, packed.offsets);
  }
  if (g.code_bytes(packed.scheme) > g.table_offset()) {
    std::memcpy(packed.codes.mutable_data<uint8_t>() + g.table_offset(), weight->codebook.raw(),
                16 * sizeof(float));
  }
  return packed;
}

}  // namespace pare::cpu
