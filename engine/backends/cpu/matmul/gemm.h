// engine/backends/cpu/matmul/gemm.h: the blocked product for many activation rows, over any form of weights.
//
// out[m, n] (+)= x[m, k] W[n, k]^T + bias, in the manner of Goto and van de Geijn, "Anatomy of
// High-Performance Matrix Multiplication" (2008): x is packed once, a panel of W (two vectors of columns, one
// block of k) is turned into floats and stays in the first-level cache while all row panels of x pass. Every
// output is summed in the order of k by one thread, so the bytes do not depend on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/backends/cpu/matmul/level.h"

namespace pare::cpu {

// Where panels come from: writes W[n0 .. n0 + columns, k0 .. k0 + kc] to panel [kc, 2 * width]; missing
// columns may hold anything finite. n0 is a multiple of 2 * width, k0 one of 16.
struct PanelSource {
  void (*fill)(const void* context, int64_t n0, int64_t columns, int64_t k0, int64_t kc, float* panel);
  const void* context;
};

struct GemmArgs {
  const float* x;  // [m, k]
  const float* bias;
  float* out;
  int64_t m, n, k, x_stride, out_stride;
  bool accumulate;
  void* workspace;               // gemm_workspace_bytes(m, k), 64-byte aligned
  bool x_is_transposed = false;  // x is [k, m], x_stride the distance of its rows
};

size_t gemm_workspace_bytes(int64_t m, int64_t k);
void gemm(const LevelKernels& level, const GemmArgs& args, const PanelSource& source);

}  // namespace pare::cpu
