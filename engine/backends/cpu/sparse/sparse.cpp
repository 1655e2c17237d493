#include "engine/backends/cpu/sparse/sparse.h"

#include <algorithm>

#include "engine/backends/cpu/matmul/gemm.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"

namespace pare::cpu {
namespace {

constexpr int64_t kBytesAtOnce = 32768;  // of a piece of work: enough to outweigh handing it out

void run_gemv(const SparseKernels& kernels, const PackedMatmulArgs& a) {
  const SparseMatrix weight = sparse_matrix(kernels, *a.weight);
  const SparseGeometry g = sparse_geometry(kernels, *a.weight);
  const SparseGemvFunction tiles = kernels.gemv[size_t(g.form)][g.table()];
  const int64_t tile_bytes = std::max<int64_t>(1, int64_t(a.weight->codes.size_bytes()) / g.tiles);
  parallel_ranges(g.tiles, std::max<int64_t>(1, kBytesAtOnce / tile_bytes), [&](int64_t begin, int64_t end) {
    tiles({.weight = &weight,
           .x = a.x,
           .bias = a.bias,
           .out = a.out,
           .m = a.m,
           .x_stride = a.x_stride,
           .out_stride = a.out_stride,
           .begin = begin,
           .end = end,
           .accumulate = a.accumulate});
  });
}

struct Panels {
  SparseMatrix weight;
  SparseExpandFunction expand;

  static void fill(const void* context, int64_t n0, int64_t, int64_t k0, int64_t kc, float* panel) {
    const auto& from = *static_cast<const Panels*>(context);
    from.expand(from.weight, n0, k0, kc, panel);
  }
};

void run_gemm(Isa isa, const SparseKernels& kernels, const PackedMatmulArgs& a) {
  const SparseGeometry g = sparse_geometry(kernels, *a.weight);
  const Panels panels{sparse_matrix(kernels, *a.weight), kernels.expand[size_t(g.form)][g.table()]};
  gemm(level_kernels(isa),
       {.x = a.x,
        .bias = a.bias,
        .out = a.out,
        .m = a.m,
        .n = a.n,
        .k = a.k,
        .x_stride = a.x_stride,
        .out_stride = a.out_stride,
        .accumulate = a.accumulate,
        .workspace = a.workspace},
       {.fill = Panels::fill, .context = &panels});
}

}  // namespace

size_t sparse_workspace_bytes(const PackedMatrix& weight, int64_t m) {
  return gemm_workspace_bytes(m, weight.in);
}

void sparse_matmul(Isa isa, const SparseKernels& kernels, const PackedMatmulArgs& args) {
  if (args.m <= level_kernels(isa).tile_gemv_rows) return run_gemv(kernels, args);
  run_gemm(isa, kernels, args);
}

void sparse_matmul_with(std::string_view kernel, Isa isa, const SparseKernels& kernels,
                        const PackedMatmulArgs& args) {
  if (kernel == "gemv") return run_gemv(kernels, args);
  PARE_ASSERT(kernel == "gemm", "[sparse] no kernel {}", kernel);
  run_gemm(isa, kernels, args);
}

std::vector<const SparseKernels*> sparse_kernels(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      if (host_has("avx512_vbmi") && host_has("avx512_vbmi2"))
        return {&sparse_avx512_vbmi2::kKernels, &sparse_avx512::kKernels};
      return {&sparse_avx512::kKernels};
    case Isa::avx2:
      return {&sparse_avx2::kKernels};
    case Isa::generic:
      break;
  }
  return {&sparse_generic::kKernels};
}

const SparseKernels& kernels_of(Isa isa, const PackedMatrix& packed) {
  for (const SparseKernels* kernels : sparse_kernels(isa)) {
    if (sparse_layout(sparse_geometry(*kernels, packed)) == packed.layout) return *kernels;
  }
  PARE_ASSERT(false, "[packed_matmul] level {} has no kernels for layout {}", isa_name(isa),
              packed.layout.name);
  return sparse_generic::kKernels;
}

}  // namespace pare::cpu
