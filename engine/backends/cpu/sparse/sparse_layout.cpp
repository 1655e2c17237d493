#include "engine/backends/cpu/sparse/sparse_layout.h"

#include <algorithm>

#include "engine/core/assert.h"

namespace pare::cpu {
namespace {

using Kind = SparsityPattern::Kind;

struct Unit {
  int slots;           // that share a unit
  int64_t lane_bytes;  // of a unit, per row
};

Unit unit_of(SparseForm form) {
  switch (form) {
    case SparseForm::of_four_bf16:
      return {2, 4};
    case SparseForm::of_four_f16:
      return {1, 2};
    case SparseForm::of_four_byte:
      return {1, 1};
    case SparseForm::of_four_nibble:
      return {8, 4};
    default:
      return {1, 4};
  }
}

const char* element_name(SparseForm form) {
  switch (form) {
    case SparseForm::of_four_f32:
    case SparseForm::masked_f32:
      return "f32";
    case SparseForm::of_four_bf16:
    case SparseForm::masked_bf16:
      return "bf16";
    case SparseForm::of_four_f16:
    case SparseForm::masked_f16:
      return "f16";
    case SparseForm::of_four_byte:
    case SparseForm::masked_byte:
      return "byte";
    case SparseForm::of_four_nibble:
    case SparseForm::masked_nibble:
      break;
  }
  return "nibble";
}

}  // namespace

int64_t SparseGeometry::block_columns(int64_t block) const {
  return std::min(kMaskedBlock, in - block * kMaskedBlock);
}

int64_t SparseGeometry::bit_of_row(int64_t row) const {
  const int64_t part = tile_rows / interleave;
  return row % part * interleave + row / part;
}

bool has_sparse_form(const std::optional<QuantScheme>& scheme, bool rounds_inputs) {
  if (!scheme) return true;
  return scheme->kind == QuantScheme::Kind::integer && scheme->offset != QuantScheme::Offset::minimum &&
         !rounds_inputs;
}

SparseForm sparse_form(const SparsityPattern& pattern, DType value_dtype,
                       const std::optional<QuantScheme>& scheme, int64_t in) {
  bool of_four = pattern.kind == Kind::n_of_m && pattern.m == 4 && pattern.n <= kMostOfFour;
  if (scheme) {
    // Four inputs that share a slot's activations must share their scale too.
    of_four = of_four && (scheme->groups(in) == 1 || scheme->group_width(in) % 4 == 0);
    if (scheme->bits <= 4) return of_four ? SparseForm::of_four_nibble : SparseForm::masked_nibble;
    return of_four ? SparseForm::of_four_byte : SparseForm::masked_byte;
  }
  switch (value_dtype) {
    case DType::f32:
      return of_four ? SparseForm::of_four_f32 : SparseForm::masked_f32;
    case DType::bf16:
      return of_four ? SparseForm::of_four_bf16 : SparseForm::masked_bf16;
    default:
      PARE_ASSERT(value_dtype == DType::f16, "[sparse] values of type {}", dtype_name(value_dtype));
      return of_four ? SparseForm::of_four_f16 : SparseForm::masked_f16;
  }
}

SparseGeometry sparse_geometry(const SparseKernels& kernels, const SparsityPattern& pattern,
                               DType value_dtype, const std::optional<QuantScheme>& scheme, int64_t out,
                               int64_t in) {
  SparseGeometry g = {};
  g.form = sparse_form(pattern, value_dtype, scheme, in);
  g.out = out;
  g.in = in;
  g.width = kernels.width;
  g.n = is_masked(g.form) ? 1 : pattern.n;
  g.tile_rows = is_masked(g.form) ? (has_codes(g.form) ? 4 : 2) * g.width : g.width;
  g.tiles = (out + g.tile_rows - 1) / g.tile_rows;
  g.groups = scheme ? scheme->groups(in) : 1;
  g.group_width = scheme ? std::min(scheme->group_width(in), in) : in;
  if (is_masked(g.form)) {
    g.interleave = kernels.interleave[size_t(g.form)];
    g.blocks = (in + kMaskedBlock - 1) / kMaskedBlock;
    return g;
  }
  g.interleave = 1;
  const Unit unit = unit_of(g.form);
  g.step_bytes = g.width * (4 + (step_slots(g.n) + unit.slots - 1) / unit.slots * unit.lane_bytes);
  const auto bytes = [&](int64_t columns) {
    return (columns + kStepColumns[g.n] - 1) / kStepColumns[g.n] * g.step_bytes;
  };
  g.group_bytes = bytes(g.group_width);
  g.tile_bytes = (g.groups - 1) * g.group_bytes + bytes(in - (g.groups - 1) * g.group_width);
  return g;
}

SparseGeometry sparse_geometry(const SparseKernels& kernels, const PackedMatrix& packed) {
  PARE_ASSERT(packed.pattern.has_value(), "[sparse] layout {} without a pattern", packed.layout.name);
  std::optional<QuantScheme> scheme;
  if (packed.value_dtype == DType::u8) scheme = packed.scheme;
  return sparse_geometry(kernels, *packed.pattern, packed.value_dtype, scheme, packed.out, packed.in);
}

PackedLayout sparse_layout(const SparseGeometry& g) {
  PackedLayout layout{.name = {}, .row_tile = int(g.tile_rows), .column_tile = 0};
  if (is_masked(g.form)) {
    layout.name = fmt::format("cpu-masked-{}-rows{}{}", element_name(g.form), g.tile_rows,
                              g.interleave > 1 ? fmt::format("x{}", g.interleave) : "");
    layout.column_tile = int(kMaskedBlock);
  } else {
    layout.name = fmt::format("cpu-{}of4-{}-rows{}", g.n, element_name(g.form), g.tile_rows);
    layout.column_tile = kStepColumns[g.n];
  }
  return layout;
}

bool is_sparse_layout(const PackedLayout& layout) {
  return layout.name.starts_with("cpu-masked-") || layout.name.find("of4-") != std::string::npos;
}

SparseMatrix sparse_matrix(const SparseKernels& kernels, const PackedMatrix& packed) {
  const SparseGeometry g = sparse_geometry(kernels, packed);
  PARE_ASSERT(packed.layout == sparse_layout(g), "[packed_matmul] layout {} given to kernels for {}",
              packed.layout.name, sparse_layout(g).name);
  return {.data = packed.codes.data<uint8_t>(),
          .starts = packed.starts.defined() ? packed.starts.data<int64_t>() : nullptr,
          .scales = packed.scales.defined() ? packed.scales.raw() : nullptr,
          .zeros = packed.offsets.defined() ? reinterpret_cast<const int8_t*>(packed.offsets.raw()) : nullptr,
          .n = g.out,
          .k = g.in,
          .blocks = g.blocks,
          .groups = g.groups,
          .group_width = g.group_width,
          .tile_bytes = g.tile_bytes,
          .group_bytes = g.group_bytes,
          .half_scales = packed.scales.defined() && packed.scales.dtype() == DType::f16};
}

}  // namespace pare::cpu
