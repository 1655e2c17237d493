#include "engine/backends/cuda/measure.h"

#include <vector>

#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/gemm.h"
#include "engine/backends/cuda/kernel.h"
#include "engine/backends/cuda/memory_pool.h"

namespace pare::cuda {
namespace {

#ifdef PARE_CUDA_EMULATOR
constexpr int64_t kBytes = int64_t{1} << 16, kTransferBytes = int64_t{1} << 16, kSide = 64, kLaunches = 10;
#else
constexpr int64_t kBytes = int64_t{1} << 30, kTransferBytes = int64_t{1} << 28, kSide = 8192, kLaunches = 1000;
#endif
constexpr int kThreads = 256;

__global__ void empty_kernel() {}

// Four loads of 16 bytes under way per thread; the sum keeps them from being left out.
__global__ void __launch_bounds__(kThreads) read_kernel(const uint4* x, int64_t count, uint32_t* out) {
  uint32_t sum = 0;
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += 4 * stride) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = i + j * stride < count ? x[i + j * stride] : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// Values of about normal size: a product of zeros runs faster than a real one, since fewer wires change.
__global__ void fill_bf16_kernel(__nv_bfloat16* x, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  uint64_t z = uint64_t(i) * 0x9e3779b97f4a7c15u + 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  x[i] = __float2bfloat16_rn(float(int64_t(z >> 40)) * 0x1p-23f - 1.0f);
}

Context& context_of(Backend& gpu) {
  PARE_ASSERT(gpu.device().kind == Device::Kind::cuda, "[measure] {}", gpu.device().name());
  return static_cast<CudaBackend&>(gpu).context();
}

}  // namespace

struct GpuProbes::State {
  explicit State(Backend& gpu) : gpu(gpu), context(context_of(gpu)) {}
  ~State() {
    if (graph != nullptr) cudaGraphExecDestroy(graph);
    if (pinned != nullptr) cudaFreeHost(pinned);
  }
  Status allocate(std::shared_ptr<void>& block, int64_t bytes) {
    if (block != nullptr) return {};
    PARE_TRY(block, context.pool().allocate(size_t(bytes)));
    return {};
  }
  void fill(void* block, int64_t bytes) {
    context.launch("fill_bf16", fill_bf16_kernel, {.grid = blocks_for(bytes / 2, kThreads), .block = kThreads},
                   static_cast<__nv_bfloat16*>(block), bytes / 2);
  }
  Status capture() {
    cudaGraph_t captured = nullptr;
    context.note(cudaStreamBeginCapture(context.stream(), cudaStreamCaptureModeThreadLocal), "capture");
    for (int64_t i = 0; i < kLaunches; ++i) context.launch("empty", empty_kernel, {.grid = 1, .block = 32});
    context.note(cudaStreamEndCapture(context.stream(), &captured), "capture");
    if (captured != nullptr) {
      context.note(cudaGraphInstantiate(&graph, captured, 0), "instantiate");
      cudaGraphDestroy(captured);
    }
    return context.take_error();
  }

  Backend& gpu;
  Context& context;
  std::shared_ptr<void> large, second, factors, product;
  cudaGraphExec_t graph = nullptr;
  void* pinned = nullptr;
};

GpuProbes::GpuProbes(Backend& gpu) : state_(std::make_unique<State>(gpu)) {}
GpuProbes::~GpuProbes() = default;

double GpuProbes::work(GpuProbe probe) {
  switch (probe) {
    case GpuProbe::copy:
      return 2.0 * double(kBytes);
    case GpuProbe::read:
      return double(kBytes);
    case GpuProbe::gemm_bf16:
      return 2.0 * double(kSide) * double(kSide) * double(kSide);
    case GpuProbe::boundary:
      return double(kLaunches);
    case GpuProbe::upload:
    case GpuProbe::download:
      return double(kTransferBytes);
  }
  return 0.0;
}

Status GpuProbes::run(GpuProbe probe) {
  State& s = *state_;
  Context& context = s.context;
  const bool is_transfer = probe == GpuProbe::upload || probe == GpuProbe::download;
  if (probe == GpuProbe::copy || probe == GpuProbe::read || is_transfer) PARE_CHECK(s.allocate(s.large, kBytes));
  switch (probe) {
    case GpuProbe::copy:
      PARE_CHECK(s.allocate(s.second, kBytes));
      context.note(cudaMemcpyAsync(s.second.get(), s.large.get(), size_t(kBytes), cudaMemcpyDeviceToDevice,
                                   context.stream()),
                   "copy");
      break;
    case GpuProbe::read: {
      const unsigned blocks = unsigned(context.multiprocessors()) * 8;
      context.launch("read", read_kernel, {.grid = blocks, .block = kThreads},
                     static_cast<const uint4*>(s.large.get()), kBytes / 16, context.scratch_of<uint32_t>(blocks));
      break;
    }
    case GpuProbe::gemm_bf16: {
      constexpr int64_t kFactor = kSide * kSide * 2;
      if (s.factors == nullptr) {
        PARE_CHECK(s.allocate(s.factors, 2 * kFactor));
        PARE_CHECK(s.allocate(s.product, 2 * kFactor));
        s.fill(s.factors.get(), 2 * kFactor);
      }
      cublas_bf16(s.gpu, s.factors.get(), static_cast<const std::byte*>(s.factors.get()) + kFactor,
                  static_cast<float*>(s.product.get()), kSide, kSide, kSide);
      break;
    }
    case GpuProbe::boundary:
      if (s.graph == nullptr) PARE_CHECK(s.capture());
      context.note(cudaGraphLaunch(s.graph, context.stream()), "boundary");
      break;
    case GpuProbe::upload:
    case GpuProbe::download: {
      if (s.pinned == nullptr)
        context.note(cudaHostAlloc(&s.pinned, size_t(kTransferBytes), cudaHostAllocDefault), "pinned memory");
      const bool up = probe == GpuProbe::upload;
      if (s.pinned != nullptr)
        context.note(cudaMemcpyAsync(up ? s.large.get() : s.pinned, up ? s.pinned : s.large.get(),
                                     size_t(kTransferBytes), up ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost,
                                     context.stream()),
                     "transfer");
      break;
    }
  }
  return s.gpu.finish();
}

void cublas_bf16(Backend& gpu, const void* x, const void* weight, float* out, int64_t m, int64_t n, int64_t k) {
  gemm(context_of(gpu), "cublas_bf16",
       {.type = DType::bf16,
        .a = {.data = x, .stride = k, .is_transposed = false},
        .b = {.data = weight, .stride = k, .is_transposed = true},
        .out = out,
        .bias = nullptr,
        .m = m,
        .n = n,
        .k = k,
        .out_stride = n,
        .alpha = 1.0f,
        .accumulate = false});
}

}  // namespace pare::cuda
