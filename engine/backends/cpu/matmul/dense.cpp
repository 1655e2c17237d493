// Dense products: streaming dot products for few rows, the blocked product for many.
#include <algorithm>
#include <array>

#include "engine/backends/cpu/matmul/gemm.h"
#include "engine/backends/cpu/matmul/level.h"
#include "engine/backends/cpu/matmul/matmul.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"

namespace pare::cpu {
namespace {

size_t form_of(DType dtype) {
  PARE_ASSERT(dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16,
              "[matmul] weight of dtype {}", dtype_name(dtype));
  if (dtype == DType::f32) return 0;
  return dtype == DType::bf16 ? 1 : 2;
}

struct DenseKernel {
  std::string_view name;
  bool (*supports)(const LevelKernels&, int64_t m);
  void (*run)(const LevelKernels&, const MatmulArgs&);
};

bool supports_gemv(const LevelKernels& level, int64_t m) {
  return m <= level.dense_gemv_rows;
}
bool supports_anything(const LevelKernels&, int64_t) {
  return true;
}

void run_gemv(const LevelKernels& level, const MatmulArgs& a) {
  // Rows whose weights take about 128 KiB: enough to outweigh handing out the piece.
  const int64_t grain = std::max<int64_t>(4, (131072 / (a.k * dtype_bytes(a.weight_dtype)) + 3) / 4 * 4);
  const auto rows = level.dense_gemv[form_of(a.weight_dtype)];
  parallel_ranges(a.n, grain, [&](int64_t begin, int64_t end) {
    rows({.x = a.x,
          .weight = a.weight,
          .bias = a.bias,
          .out = a.out,
          .m = a.m,
          .k = a.k,
          .x_stride = a.x_stride,
          .out_stride = a.out_stride,
          .begin = begin,
          .end = end,
          .accumulate = a.accumulate});
  });
}

struct DenseSource {
  const std::byte* weight;
  int64_t element_bytes, k;
  void (*pack)(const void* weight, int64_t stride, int64_t rows, int64_t kc, float* panel);
};

void run_gemm(const LevelKernels& level, const MatmulArgs& a) {
  const DenseSource dense{.weight = static_cast<const std::byte*>(a.weight),
                          .element_bytes = dtype_bytes(a.weight_dtype),
                          .k = a.k,
                          .pack = level.pack_panel[form_of(a.weight_dtype)]};
  const PanelSource source{
      .fill =
          [](const void* context, int64_t n0, int64_t columns, int64_t k0, int64_t kc, float* panel) {
            const auto& from = *static_cast<const DenseSource*>(context);
            from.pack(from.weight + (n0 * from.k + k0) * from.element_bytes, from.k, columns, kc, panel);
          },
      .context = &dense};
  gemm(level,
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
       source);
}

constexpr std::array kDenseKernels{
    // few rows: the weights are the whole cost, so read them once and in order
    DenseKernel{"dense_gemv", supports_gemv, run_gemv},
    DenseKernel{"dense_gemm", supports_anything, run_gemm},
};

const DenseKernel& choose(const LevelKernels& level, int64_t m) {
  return *std::ranges::find_if(kDenseKernels,
                               [&](const DenseKernel& kernel) { return kernel.supports(level, m); });
}

}  // namespace

size_t matmul_workspace_bytes(Isa, int64_t m, int64_t, int64_t k) {
  return gemm_workspace_bytes(m, k);
}

void matmul(Isa isa, const MatmulArgs& args) {
  const LevelKernels& level = level_kernels(isa);
  choose(level, args.m).run(level, args);
}

std::string matmul_kernel_name(Isa isa, int64_t m, DType weight_dtype) {
  return fmt::format("{} {} {}", isa_name(isa), choose(level_kernels(isa), m).name, dtype_name(weight_dtype));
}

std::vector<std::string_view> matmul_kernels() {
  std::vector<std::string_view> names;
  for (const DenseKernel& kernel : kDenseKernels) names.push_back(kernel.name);
  return names;
}

void matmul_with(std::string_view kernel, Isa isa, const MatmulArgs& args) {
  const auto found = std::ranges::find(kDenseKernels, kernel, &DenseKernel::name);
  PARE_ASSERT(found != kDenseKernels.end(), "[matmul] no kernel {}", kernel);
  found->run(level_kernels(isa), args);
}

}  // namespace pare::cpu
