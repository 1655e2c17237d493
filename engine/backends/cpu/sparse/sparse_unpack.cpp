// From the layout of a level back to a SparseTensor.
#include <bit>
#include <cstring>
#include <vector>

#include "engine/backends/cpu/sparse/sparse.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"

namespace pare::cpu {
namespace {

constexpr int64_t kTilesAtOnce = 2;

// Elements of one tile at [row of the tile, column]: bits of a value, or a code as two's complement.
struct TileRows {
  std::vector<uint32_t> elements;
  std::vector<uint8_t> kept;
};

int64_t element_bytes(SparseForm form) {
  switch (form) {
    case SparseForm::masked_f32:
      return 4;
    case SparseForm::masked_bf16:
    case SparseForm::masked_f16:
      return 2;
    default:
      return 1;
  }
}

uint32_t element_at(SparseForm form, const uint8_t* values, int64_t index) {
  if (form == SparseForm::masked_nibble) return (uint32_t{values[index / 2]} >> (index % 2 * 4)) & 15u;
  uint32_t element = 0;
  const int64_t bytes = element_bytes(form);
  std::memcpy(&element, values + index * bytes, size_t(bytes));
  return element;
}

void read_masked(const PackedMatrix& packed, const SparseGeometry& g, int64_t tile, TileRows& rows) {
  std::vector<int64_t> row_of_bit(static_cast<size_t>(g.tile_rows));
  for (int64_t row = 0; row < g.tile_rows; ++row) row_of_bit[size_t(g.bit_of_row(row))] = row;
  for (int64_t block = 0; block < g.blocks; ++block) {
    const uint8_t* masks =
        packed.codes.data<uint8_t>() + packed.starts.data<int64_t>()[tile * g.blocks + block];
    const uint8_t* values = masks + g.block_columns(block) * g.mask_bytes();
    for (int64_t i = 0; i < g.block_columns(block); ++i) {
      uint64_t bits = 0;
      std::memcpy(&bits, masks + i * g.mask_bytes(), size_t(g.mask_bytes()));
      int64_t taken = 0;
      for (; bits != 0; bits &= bits - 1) {
        const int64_t row = row_of_bit[size_t(std::countr_zero(bits))];
        const size_t at = size_t(row * g.in + block * kMaskedBlock + i);
        rows.kept[at] = 1;
        rows.elements[at] = element_at(g.form, values, taken++);
      }
      values += g.form == SparseForm::masked_nibble ? (taken + 1) / 2 : taken * element_bytes(g.form);
    }
  }
}

uint32_t slot_at(const SparseGeometry& g, const uint8_t* slots, int64_t lane, int slot) {
  uint32_t element = 0;
  switch (g.form) {
    case SparseForm::of_four_f32:
      std::memcpy(&element, slots + (slot * g.width + lane) * 4, 4);
      return element;
    case SparseForm::of_four_bf16:
      std::memcpy(&element, slots + (slot / 2 * g.width + lane) * 4 + slot % 2 * 2, 2);
      return element;
    case SparseForm::of_four_f16:
      std::memcpy(&element, slots + (slot * g.width + lane) * 2, 2);
      return element;
    case SparseForm::of_four_byte:
      return slots[slot * g.width + lane];
    default:
      break;
  }
  return (uint32_t{slots[(slot / 8 * g.width + lane) * 4 + slot % 8 / 2]} >> (slot % 2 * 4)) & 15u;
}

void read_of_four(const PackedMatrix& packed, const SparseGeometry& g, int64_t tile, TileRows& rows) {
  const int64_t columns = kStepColumns[g.n];
  for (int64_t left = 0; left < g.in; left += 4) {
    const int64_t group = left / g.group_width, inner = left - group * g.group_width;
    const uint8_t* step = packed.codes.data<uint8_t>() + tile * g.tile_bytes + group * g.group_bytes +
                          inner / columns * g.step_bytes;
    const int64_t width = std::min<int64_t>(4, g.in - left);
    const int kept = int(width - (4 - g.n) * width / 4);
    for (int64_t lane = 0; lane < g.width; ++lane) {
      uint32_t word = 0;
      std::memcpy(&word, step + 4 * lane, sizeof word);
      for (int i = 0; i < kept; ++i) {
        const int slot = int(inner % columns / 4) * g.n + i;
        const size_t at = size_t(lane * g.in + left + ((word >> (2 * slot)) & 3u));
        rows.kept[at] = 1;
        rows.elements[at] = slot_at(g, step + 4 * g.width, lane, slot);
      }
    }
  }
}

// body(row of the matrix, its elements, which are kept), from several threads.
template <typename Body>
void for_rows(const PackedMatrix& packed, const SparseGeometry& g, const Body& body) {
  parallel_ranges(g.tiles, kTilesAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const size_t count = size_t(g.tile_rows * g.in);
      TileRows rows{std::vector<uint32_t>(count), std::vector<uint8_t>(count)};
      is_masked(g.form) ? read_masked(packed, g, tile, rows) : read_of_four(packed, g, tile, rows);
      for (int64_t row = 0; row < g.tile_rows && tile * g.tile_rows + row < g.out; ++row)
        body(tile * g.tile_rows + row, rows.elements.data() + row * g.in, rows.kept.data() + row * g.in);
    }
  });
}

// [tiles, groups, rows] back to the canonical shape of `to`: whatever it holds for several rows is the same.
template <typename To, typename Convert>
void gather(const SparseGeometry& g, Tensor& to, const Convert& convert) {
  To* target = to.mutable_data<To>();
  for (int64_t i = 0; i < to.numel(); ++i) {
    const int64_t row = i / g.groups, group = i % g.groups;
    target[i] = convert((row / g.tile_rows * g.groups + group) * g.tile_rows + row % g.tile_rows);
  }
}

Result<SparseTensor> unpack_codes_of(const PackedMatrix& packed, const SparseGeometry& g, const Mask& mask,
                                     uint8_t* mask_bits) {
  const QuantScheme& scheme = packed.scheme;
  PARE_TRY(QuantizedTensor whole, QuantizedTensor::allocate(scheme, packed.out, packed.in));
  uint8_t* codes = whole.codes.mutable_data<uint8_t>();
  const unsigned center = unsigned(scheme.symmetric_zero_point()), all = unsigned(scheme.code_count()) - 1;
  for_rows(packed, g, [&](int64_t row, const uint32_t* elements, const uint8_t* kept) {
    std::vector<uint8_t> row_codes(static_cast<size_t>(packed.in));
    for (int64_t column = 0; column < packed.in; ++column) {
      if (kept[column] == 0) continue;
      mask_bits[row * ((packed.in + 7) / 8) + column / 8] |= uint8_t(1u << (column % 8));
      row_codes[size_t(column)] = uint8_t((elements[column] + center) & all);
    }
    pack_codes(row_codes.data(), packed.in, scheme.bits, codes + row * scheme.row_bytes(packed.in));
  });
  if (scheme.scale_dtype == DType::f32) {
    gather<float>(g, whole.scales, [&](int64_t i) { return packed.scales.data<float>()[i]; });
  } else if (scheme.scale_dtype == DType::f16) {
    gather<uint16_t>(g, whole.scales, [&](int64_t i) { return packed.scales.data<uint16_t>()[i]; });
  } else {
    gather<uint16_t>(g, whole.scales,
                     [&](int64_t i) { return float_to_bf16(packed.scales.data<float>()[i]); });
  }
  if (whole.zero_points.defined()) {
    gather<uint8_t>(g, whole.zero_points,
                    [&](int64_t i) { return uint8_t((packed.offsets.data<uint8_t>()[i] + center) & all); });
  }
  return SparseTensor::from_quantized(whole, mask, *packed.pattern);
}

}  // namespace

Result<SparseTensor> sparse_unpack(const PackedMatrix& packed) {
  const SparseKernels* kernels = nullptr;
  for (const SparseKernels* candidate : {&sparse_generic::kKernels, &sparse_avx2::kKernels,
                                         &sparse_avx512::kKernels, &sparse_avx512_vbmi2::kKernels}) {
    if (sparse_layout(sparse_geometry(*candidate, packed)) == packed.layout) kernels = candidate;
  }
  PARE_ASSERT(kernels != nullptr, "[unpack] layout {}", packed.layout.name);
  const SparseGeometry g = sparse_geometry(*kernels, packed);
  PARE_TRY(Tensor bits, Tensor::allocate(DType::u8, {packed.out, (packed.in + 7) / 8}));
  uint8_t* mask_bits = bits.mutable_data<uint8_t>();
  const Mask mask(bits, packed.out, packed.in);
  if (has_codes(g.form)) return unpack_codes_of(packed, g, mask, mask_bits);
  PARE_TRY(const Tensor dense, Tensor::allocate(packed.value_dtype, {packed.out, packed.in}));
  const size_t bytes = size_t(dtype_bytes(packed.value_dtype));
  for_rows(packed, g, [&](int64_t row, const uint32_t* elements, const uint8_t* kept) {
    for (int64_t column = 0; column < packed.in; ++column) {
      if (kept[column] == 0) continue;
      mask_bits[row * ((packed.in + 7) / 8) + column / 8] |= uint8_t(1u << (column % 8));
      std::memcpy(dense.mutable_raw() + size_t(row * packed.in + column) * bytes, &elements[column], bytes);
    }
  });
  return SparseTensor::from_dense(dense, mask, *packed.pattern);
}

}  // namespace pare::cpu
