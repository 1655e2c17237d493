// engine/backends/cuda/int8_layout.h: where the codes of integer products lie ("cuda-int8", "cuda-int4x8").
// Host code only, and no header of CUDA.
//
// Columns stand in "steps" of 32, the depth of one tensor-core instruction. Every segment of
// integer_product.h is filled up to whole steps with code and input 0, and a row to a multiple of 64 columns;
// inputs are rounded into the same places, so that no kernel meets a ragged end. With c' and z' the stored
// code and zero:
//   cuda-int8    5 to 8 bits: a byte per code, c' = c - 2^(bits-1)
//   cuda-int4x8  2 to 4 bits: 16 bytes per step, byte j is c'[j] | c'[16 + j] << 4, c' = c (so that one word
//                gives both registers of a fragment by a mask and a shift)
// PackedMatrix of such a layout:
//   codes    u8 [out, row_bytes]
//   scales   f32 [segments, out]
//   offsets  i32 [2, segments, out]: z', then the sum of c' over the segment; undefined when every z' is 0
//   and the
//            inputs are symmetric
#pragma once

#include <cstdint>

#include "engine/core/result.h"
#include "engine/tensor/integer_product.h"
#include "engine/tensor/packed_layout.h"

namespace pare::cuda {

constexpr int kInt8Step = 32;

// How segments lie in padded rows; what a kernel knows of them.
struct Int8Segments {
  int64_t in = 0;           // columns
  int64_t group_width = 0;  // columns of a group, and the steps that it takes
  int64_t group_steps = 0;
  int64_t widest = 0;  // columns of a segment at most; a multiple of 64
  int64_t per_group = 1;
  int64_t count = 0;
  int64_t steps = 0;  // of a whole row, even

  Int8Segments() = default;
  explicit Int8Segments(const IntegerSegments& segments);

  constexpr int64_t padded() const { return steps * kInt8Step; }  // columns of a padded row
  bool operator==(const Int8Segments&) const = default;
};

bool is_int8_layout(const PackedLayout& layout);
Int8Segments int8_segments(const PackedMatrix& packed);

// Both in host memory. Exit 4 for weights without an integer product (PK20), 6 without memory.
Result<PackedMatrix> pack_int8(const QuantizedTensor& weight);
Result<QuantizedTensor> unpack_int8(const PackedMatrix& packed);

}  // namespace pare::cuda
