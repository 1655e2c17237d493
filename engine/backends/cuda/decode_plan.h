// engine/backends/cuda/decode_plan.h: what fused products take, and how one is cut over warps.
#pragma once

#include <cstdint>
#include <string>

#include "engine/backends/cuda/context.h"
#include "engine/tensor/decode_backend.h"

namespace pare::cuda {

struct FusedPlan {
  DecodeRowsIn in;
  const DecodeMatrix* matrices;
  int count;
  bool is_pair;  // gate and up of the same outputs; otherwise one behind the other
  float* out;
  int64_t out_stride;
  bool accumulate = false;
  Activation activation = Activation::identity;
  const DecodeHeadsArgs* heads = nullptr;
  int32_t* counters = nullptr;
};

// Why the kernels do not take these matrices, whatever the device; empty: they do.
std::string why_not_planned(const DecodeMatrix* matrices, int count, int64_t rows);
// Two matrices are a pair.
size_t fused_shared_bytes(const DecodeMatrix& matrix, int count, int64_t rows);
// Warps that share the columns of a tile: as many as find two blocks of 64 columns each, since more of them
// means more loads under way.
int warps_per_tile(int64_t blocks);

void launch_fused(Context& context, const char* name, const FusedPlan& plan);

}  // namespace pare::cuda
