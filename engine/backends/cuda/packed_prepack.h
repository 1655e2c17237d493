// engine/backends/cuda/packed_prepack.h: canonical codes to the layout "cuda-fragments" on the device, and to
// plain matrices.
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/backends/cuda/packed_fragments.h"

namespace pare::cuda {

// Canonical codes in device memory.
struct CanonicalCodes {
  const uint8_t* codes;  // [out, row_bytes]
  int64_t row_bytes;
};
// Fills the tiles of `to`; its column map must be in place.
void launch_prepack_codes(Context& context, const CanonicalCodes& from, const FragmentMatrix& to,
                          const FragmentGeometry& geometry);
// [out, groups] or [1, 1] to [tiles, groups of the layout, 16], elements of `width` bytes; group_of as in
// ColumnMap, or null.
void launch_prepack_groups(Context& context, const void* from, void* to, int width,
                           const FragmentGeometry& geometry, const int32_t* group_of, int64_t groups,
                           bool is_one);

// out[n, k] = the matrix, bf16 (rounded) or f32 (as QuantizedTensor::dequantize), contiguous.
void launch_dequantize(Context& context, const FragmentMatrix& from, DType dtype, void* out);

}  // namespace pare::cuda
