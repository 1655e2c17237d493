// engine/backends/cuda/sparse_layout.h: where kernels want the kept weights of a sparse matrix. Host code
// only, and no header of CUDA.
//
// "cuda-2of4-<stored>": 2:4 matrices, as mma.sp reads them. Tiles of 16 rows x 64 columns; what is ragged is
// filled with value and code 0 at places beyond the end, where inputs are 0. Lane 4 g + t of a warp holds, of
// each half of 32 columns, the pairs kept of columns 4 t .. 4 t + 3 and 16 + 4 t .. of rows g and g + 8:
// eight values in the order a0 (row g), a1 (row g + 8), a2 (row g, upper columns), a3.
//   codes   [row tiles, column tiles] values, then [row tiles, column tiles] of 32 words of places:
//           bf16, f16: 2 x 32 x 16 bytes, a half after the other; byte: 32 x 16 bytes, lane by lane; nibble:
//           32 x 8 bytes, low nibble first. Word 4 g + q, q = 2 (half) + (upper 16 columns): 4 bits per group
//           of four, low place first, row g in the low 16 bits, row g + 8 in the high ones
//
// "cuda-masked-<stored>": everything else.
//   codes   u32 [out, words] one bit per column, words a multiple of 4; then the kept values row by row,
//           rows on 16 bytes
//   starts  i64 [out]: first byte of the values of each row, from the start of codes
//
// With codes: scales f32 [groups, out]; offsets f32 [groups, out], the zero points (undefined when
// symmetric).
#pragma once

#include <cstdint>
#include <string>

#include "engine/core/result.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/packed_layout.h"

namespace pare::cuda {

enum class SparseStored : uint8_t { f32, bf16, f16, byte, nibble };

struct SparseForm {
  bool is_of_four = false;  // else masked
  SparseStored stored = SparseStored::f32;

  std::string name() const;
};

// Whether kernels read what is stored: values, integer codes without minimums and without rounded inputs.
bool has_sparse_form(const std::optional<QuantScheme>& scheme, bool rounds_inputs);
SparseForm sparse_form(const SparsityPattern& pattern, DType value_dtype,
                       const std::optional<QuantScheme>& scheme, int64_t in);
SparseForm sparse_form(const PackedMatrix& packed);
bool is_sparse_layout(const PackedLayout& layout);

constexpr int64_t kOfFourRows = 16, kOfFourColumns = 64, kOfFourPlaceBytes = 128;
constexpr int64_t of_four_value_bytes(SparseStored stored) {  // of a tile
  return stored == SparseStored::byte ? 512 : stored == SparseStored::nibble ? 256 : 1024;
}
inline int64_t masked_words(int64_t in) {
  return (in + 127) / 128 * 4;
}

// Both in host memory. Exit 4 for codes without a sparse kernel (SP10), 6 without memory.
Result<PackedMatrix> pack_sparse(const SparseTensor& weight);
Result<SparseTensor> unpack_sparse_parts(const PackedMatrix& packed);

// By the bytes that a decode step reads.
KernelChoice choose_sparse_form(const SparseSummary& weight);

}  // namespace pare::cuda
