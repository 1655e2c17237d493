// engine/backends/cpu/matmul/int8.h: integer products, activations rounded to INT8 times codes, summed in
// INT32. The arithmetic is that of engine/tensor/integer_product.h: every kernel gives the same bytes.
//
// Layout "cpu-i8-rows<width>": a tile is `width` output rows; per segment (integer_product.h) quads of
// columns, in a quad four codes (u8, as stored canonically) of each row side by side, so that one load feeds
// a dot instruction and one lane is one output row. Missing rows and columns are zero.
//   codes    u8, the tiles one after the other
//   scales   f32 [tiles, segments, width]
//   offsets  i32 [2, tiles, segments, width]: the zeros z, and the sums of (c - z) over the segment
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "engine/backends/cpu/isa.h"
#include "engine/backends/cpu/matmul/int8_level.h"
#include "engine/tensor/backend.h"

namespace pare::cpu {

bool is_int8_layout(const PackedLayout& layout);
// Error: exit 4 for what has no integer product, 6.
Result<PackedMatrix> int8_prepack(Isa isa, const QuantizedTensor& weight);
Result<QuantizedTensor> int8_unpack(const PackedMatrix& packed);
size_t int8_workspace_bytes(const PackedMatrix& weight, int64_t m);
void int8_matmul(Isa isa, const PackedMatmulArgs& args);

// For tests and benchmarks: what this host can run at a level, the one that int8_matmul uses first.
std::vector<const Int8Kernels*> int8_kernels(Isa isa);
void int8_matmul_with(const Int8Kernels& kernels, const PackedMatmulArgs& args);

}  // namespace pare::cpu
