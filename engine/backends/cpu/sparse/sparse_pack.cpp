// From a SparseTensor to the layout of a level, tile by tile and in parallel.
#include <bit>
#include <cstring>
#include <vector>

#include "engine/backends/cpu/sparse/sparse.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/sparse_walk.h"

namespace pare::cpu {
namespace {

constexpr int64_t kTilesAtOnce = 2;

// What is stored for the kept weights of a tensor, element by element: bits of a value, or a code as two's
// complement.
class Elements {
 public:
  explicit Elements(const SparseTensor& from) : from_(from) {
    if (from.has_codes()) {
      bits_ = from.scheme->bits;
      center_ = from.scheme->symmetric_zero_point();
    }
  }
  int64_t bytes() const { return from_.has_codes() ? 1 : dtype_bytes(from_.values.dtype()); }
  uint32_t at(int64_t slot) const {
    if (from_.has_codes()) {
      const auto code = read_bits(from_.codes.data<uint8_t>(), slot * bits_, bits_);
      return uint8_t(int(code) - center_);
    }
    return from_.values.dtype() == DType::f32 ? std::bit_cast<uint32_t>(from_.values.data<float>()[slot])
                                              : from_.values.data<uint16_t>()[slot];
  }

 private:
  const SparseTensor& from_;
  int bits_ = 0, center_ = 0;
};

class OfFourPacker {
 public:
  OfFourPacker(const SparseTensor& from, const SparseGeometry& geometry, const int8_t* zeros, uint8_t* to)
      : from_(from), elements_(from), g_(geometry), zeros_(zeros), to_(to) {}

  void pack(int64_t tile) const {
    uint8_t* to = to_ + tile * g_.tile_bytes;
    const int64_t columns = kStepColumns[g_.n];
    const int64_t rows = std::min(g_.width, g_.out - tile * g_.width);
    if (zeros_ != nullptr) fill_with_zero_points(tile, to);
    place_missing(tile, to);
    for (int64_t lane = 0; lane < rows; ++lane) {
      int64_t four = -1;
      int slot_of_four = 0;
      for_row_slots(from_, tile * g_.width + lane, [&](int64_t column, int64_t slot) {
        if (column / 4 != four) {
          four = column / 4;
          slot_of_four = 0;
        }
        const int64_t group = column / g_.group_width, inner = column - group * g_.group_width;
        uint8_t* step = to + group * g_.group_bytes + inner / columns * g_.step_bytes;
        const int in_step = int(inner % columns / 4) * g_.n + slot_of_four++;
        uint32_t word = 0;
        std::memcpy(&word, step + 4 * lane, sizeof word);
        word |= uint32_t(column % 4) << (2 * in_step);
        std::memcpy(step + 4 * lane, &word, sizeof word);
        put(step + 4 * g_.width, lane, in_step, elements_.at(slot));
      });
    }
  }

 private:
  // One element at slot `slot` of the slots at `to`.
  void put(uint8_t* to, int64_t lane, int slot, uint32_t element) const {
    switch (g_.form) {
      case SparseForm::of_four_f32:
        std::memcpy(to + (slot * g_.width + lane) * 4, &element, 4);
        return;
      case SparseForm::of_four_bf16:
        std::memcpy(to + (slot / 2 * g_.width + lane) * 4 + slot % 2 * 2, &element, 2);
        return;
      case SparseForm::of_four_f16:
        std::memcpy(to + (slot * g_.width + lane) * 2, &element, 2);
        return;
      case SparseForm::of_four_byte:
        to[slot * g_.width + lane] = uint8_t(element);
        return;
      default:
        break;
    }
    uint8_t& byte = to[(slot / 8 * g_.width + lane) * 4 + slot % 8 / 2];
    const int shift = slot % 2 * 4;
    byte = uint8_t((unsigned(byte) & ~(15u << shift)) | ((element & 15u) << shift));
  }

  // Slots that the last, narrower group lacks stand for its fourth input, which no row has.
  void place_missing(int64_t tile, uint8_t* to) const {
    const int64_t width = g_.in % 4, left = g_.in - width;
    if (width == 0) return;
    const int64_t group = left / g_.group_width, inner = left - group * g_.group_width;
    uint8_t* step = to + group * g_.group_bytes + inner / kStepColumns[g_.n] * g_.step_bytes;
    const int first = int(inner % kStepColumns[g_.n] / 4) * g_.n;
    for (int i = int(width - (4 - g_.n) * width / 4); i < g_.n; ++i) {
      for (int64_t lane = 0; lane < g_.width && tile * g_.width + lane < g_.out; ++lane) {
        uint32_t word = 0;
        std::memcpy(&word, step + 4 * lane, sizeof word);
        word |= 3u << (2 * (first + i));
        std::memcpy(step + 4 * lane, &word, sizeof word);
      }
    }
  }

  // Slots that stay empty must decode to 0.
  void fill_with_zero_points(int64_t tile, uint8_t* to) const {
    for (int64_t group = 0; group < g_.groups; ++group) {
      const int8_t* zeros = zeros_ + (tile * g_.groups + group) * g_.width;
      const int64_t begin = group * g_.group_bytes, end = std::min(begin + g_.group_bytes, g_.tile_bytes);
      for (int64_t step = begin; step < end; step += g_.step_bytes) {
        for (int slot = 0; slot < step_slots(g_.n); ++slot) {
          for (int64_t lane = 0; lane < g_.width; ++lane)
            put(to + step + 4 * g_.width, lane, slot, uint32_t(uint8_t(zeros[lane])));
        }
      }
    }
  }

  const SparseTensor& from_;
  Elements elements_;
  const SparseGeometry& g_;
  const int8_t* zeros_;
  uint8_t* to_;
};

// Masks of all tiles [tiles, in], as 64-bit words; then the values tile by tile.
class MaskedPacker {
 public:
  MaskedPacker(const SparseTensor& from, const SparseGeometry& geometry)
      : from_(from), elements_(from), g_(geometry), masks_(size_t(geometry.tiles * geometry.in)) {
    parallel_ranges(g_.tiles, kTilesAtOnce, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        for_kept(tile,
                 [&](int64_t column, int64_t bit, int64_t) { mask(tile, column) |= uint64_t{1} << bit; });
      }
    });
  }

  // Writes where each block starts; returns the end of the last one.
  int64_t place(int64_t* starts) const {
    int64_t at = 0;
    for (int64_t tile = 0; tile < g_.tiles; ++tile) {
      for (int64_t block = 0; block < g_.blocks; ++block) {
        *starts++ = at;
        const int64_t first = block * kMaskedBlock, count = g_.block_columns(block);
        at += count * g_.mask_bytes();
        for (int64_t column = first; column < first + count; ++column)
          at += value_bytes(std::popcount(mask(tile, column)));
      }
    }
    return at;
  }

  void pack(int64_t tile, const int64_t* starts, uint8_t* to) const {
    // Elements of the tile at [column, bit]; then those that are kept, in that order.
    std::vector<uint32_t> elements(size_t(g_.in * g_.tile_rows));
    for_kept(tile, [&](int64_t column, int64_t bit, int64_t slot) {
      elements[size_t(column * g_.tile_rows + bit)] = elements_.at(slot);
    });
    for (int64_t block = 0; block < g_.blocks; ++block) {
      uint8_t* masks = to + starts[tile * g_.blocks + block];
      const int64_t first = block * kMaskedBlock, count = g_.block_columns(block);
      uint8_t* values = masks + count * g_.mask_bytes();
      for (int64_t i = 0; i < count; ++i) {
        const uint64_t word = mask(tile, first + i);
        std::memcpy(masks + i * g_.mask_bytes(), &word, size_t(g_.mask_bytes()));
        const uint32_t* column = elements.data() + (first + i) * g_.tile_rows;
        int64_t taken = 0;
        for (uint64_t bits = word; bits != 0; bits &= bits - 1)
          put(values, taken++, column[std::countr_zero(bits)]);
        values += value_bytes(taken);
      }
    }
  }

 private:
  // body(column, bit, slot) for every kept weight of a tile.
  template <typename Body>
  void for_kept(int64_t tile, const Body& body) const {
    const int64_t rows = std::min(g_.tile_rows, g_.out - tile * g_.tile_rows);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t bit = g_.bit_of_row(row);
      for_row_slots(from_, tile * g_.tile_rows + row,
                    [&](int64_t column, int64_t slot) { body(column, bit, slot); });
    }
  }
  uint64_t& mask(int64_t tile, int64_t column) { return masks_[size_t(tile * g_.in + column)]; }
  uint64_t mask(int64_t tile, int64_t column) const { return masks_[size_t(tile * g_.in + column)]; }
  int64_t value_bytes(int64_t count) const {
    return g_.form == SparseForm::masked_nibble ? (count + 1) / 2 : count * elements_.bytes();
  }
  void put(uint8_t* values, int64_t index, uint32_t element) const {
    if (g_.form == SparseForm::masked_nibble) {
      values[index / 2] = uint8_t(values[index / 2] | ((element & 15u) << (index % 2 * 4)));
    } else {
      std::memcpy(values + index * elements_.bytes(), &element, size_t(elements_.bytes()));
    }
  }

  const SparseTensor& from_;
  Elements elements_;
  const SparseGeometry& g_;
  std::vector<uint64_t> masks_;
};

// Per-group numbers [out, groups] to [tiles, groups, rows]; `convert` makes the stored element of element
// `index`.
template <typename To, typename Convert>
void spread(const QuantScheme& scheme, const SparseGeometry& g, To* to, const Convert& convert) {
  const bool is_tensor = scheme.granularity == QuantScheme::Granularity::tensor;
  for (int64_t row = 0; row < g.out; ++row) {
    for (int64_t group = 0; group < g.groups; ++group) {
      to[(row / g.tile_rows * g.groups + group) * g.tile_rows + row % g.tile_rows] =
          convert(is_tensor ? 0 : row * g.groups + group);
    }
  }
}

Status pack_scales(const SparseTensor& weight, const SparseGeometry& g, PackedMatrix& packed) {
  const QuantScheme& scheme = *weight.scheme;
  const Shape shape{g.tiles, g.groups, g.tile_rows};
  const DType dtype = scheme.scale_dtype == DType::f16 ? DType::f16 : DType::f32;
  PARE_TRY(packed.scales, Tensor::allocate(dtype, shape));
  if (dtype == DType::f16) {
    spread(scheme, g, packed.scales.mutable_data<uint16_t>(),
           [&](int64_t i) { return weight.scales.data<uint16_t>()[i]; });
  } else if (scheme.scale_dtype == DType::f32) {
    spread(scheme, g, packed.scales.mutable_data<float>(),
           [&](int64_t i) { return weight.scales.data<float>()[i]; });
  } else {
    spread(scheme, g, packed.scales.mutable_data<float>(),
           [&](int64_t i) { return bf16_to_float(weight.scales.data<uint16_t>()[i]); });
  }
  if (scheme.offset != QuantScheme::Offset::zero_point) return {};
  PARE_TRY(packed.offsets, Tensor::allocate(DType::u8, shape));
  spread(scheme, g, packed.offsets.mutable_data<uint8_t>(), [&](int64_t i) {
    return uint8_t(int(weight.zero_points.data<uint8_t>()[i]) - scheme.symmetric_zero_point());
  });
  return {};
}

}  // namespace

Result<PackedMatrix> sparse_prepack(const SparseKernels& kernels, const SparseTensor& weight) {
  PARE_ASSERT(has_sparse_form(weight.scheme, weight.activation.has_value()),
              "[prepack] {} has no sparse form", weight.scheme->text());
  PackedMatrix packed;
  packed.out = weight.out();
  packed.in = weight.in();
  packed.pattern = weight.pattern;
  packed.value_dtype = weight.has_codes() ? DType::u8 : weight.values.dtype();
  if (weight.has_codes()) packed.scheme = *weight.scheme;
  const SparseGeometry g = sparse_geometry(kernels, packed);
  packed.layout = sparse_layout(g);
  if (weight.has_codes()) {
    PARE_CHECK(pack_scales(weight, g, packed));
  }
  if (!is_masked(g.form)) {
    PARE_TRY(packed.codes, Tensor::allocate(DType::u8, {g.tiles * g.tile_bytes + int64_t(kReadAhead)}));
    const auto* zeros =
        packed.offsets.defined() ? reinterpret_cast<const int8_t*>(packed.offsets.raw()) : nullptr;
    const OfFourPacker packer(weight, g, zeros, packed.codes.mutable_data<uint8_t>());
    parallel_ranges(g.tiles, kTilesAtOnce, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) packer.pack(tile);
    });
    return packed;
  }
  PARE_TRY(packed.starts, Tensor::allocate(DType::i64, {g.tiles, g.blocks}));
  const MaskedPacker packer(weight, g);
  const int64_t bytes = packer.place(packed.starts.mutable_data<int64_t>());
  PARE_TRY(packed.codes, Tensor::allocate(DType::u8, {bytes + int64_t(kReadAhead)}));
  uint8_t* to = packed.codes.mutable_data<uint8_t>();
  const int64_t* starts = packed.starts.data<int64_t>();
  parallel_ranges(g.tiles, kTilesAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) packer.pack(tile, starts, to);
  });
  return packed;
}

}  // namespace pare::cpu
