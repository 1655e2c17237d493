// engine/backends/cpu/sparse/sparse_layout.h: the layouts of the sparse kernels, "cpu-2of4-bf16-rows16",
// "cpu-masked-nibble-rows64x4" (x4: the interleave of SparseForm).
//
// PackedMatrix of such a layout (see SparseForm in sparse_level.h for the order inside a tile):
//   codes    u8: the tiles one after the other, then kReadAhead zero bytes
//   starts   i64 [tiles, blocks]: where the blocks of masked tiles begin
//   scales   with codes [tiles, groups, rows of a tile], f16 when the scheme has f16, else f32
//   offsets  with zero points u8 [tiles, groups, rows of a tile], two's complement like the codes
#pragma once

#include <cstdint>

#include "engine/backends/cpu/sparse/sparse_level.h"
#include "engine/tensor/packed_layout.h"
#include "engine/tensor/sparse_tensor.h"

namespace pare::cpu {

// Extents that follow from what is stored, shape and kernels.
struct SparseGeometry {
  SparseForm form;
  int n;  // of_four; 1 for masked
  int64_t out, in, width;
  int64_t tile_rows, tiles;
  int64_t groups, group_width;                  // of scales
  int interleave;                               // masked
  int64_t blocks;                               // masked
  int64_t step_bytes, group_bytes, tile_bytes;  // of_four

  size_t table() const { return size_t(n - 1); }  // index into SparseKernels::gemv[form]
  int64_t mask_bytes() const { return tile_rows / 8; }
  int64_t block_columns(int64_t block) const;
  int64_t bit_of_row(int64_t row) const;  // of a row within its tile
};

// Whether sparse kernels read what is stored: values, integer codes without minimums and without rounded
// inputs.
bool has_sparse_form(const std::optional<QuantScheme>& scheme, bool rounds_inputs);
SparseForm sparse_form(const SparsityPattern& pattern, DType value_dtype,
                       const std::optional<QuantScheme>& scheme, int64_t in);
SparseGeometry sparse_geometry(const SparseKernels& kernels, const SparsityPattern& pattern,
                               DType value_dtype, const std::optional<QuantScheme>& scheme, int64_t out,
                               int64_t in);
SparseGeometry sparse_geometry(const SparseKernels& kernels, const PackedMatrix& packed);
PackedLayout sparse_layout(const SparseGeometry& geometry);
bool is_sparse_layout(const PackedLayout& layout);

// The matrix as `kernels` see it; asserts that the layout is theirs.
SparseMatrix sparse_matrix(const SparseKernels& kernels, const PackedMatrix& packed);

}  // namespace pare::cpu
