// The CUDA runtime of cuda_runtime.h over host memory.
#include <cuda_runtime.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ASAN 1
#endif
#endif

namespace emulator {
struct Graph {
  std::vector<std::function<void()>> work;
};
struct GraphExec {
  std::vector<std::function<void()>> work;
};
struct Stream {
  bool capturing = false;
  Graph* graph = nullptr;
};
struct Event {};

namespace {

constexpr size_t kTotalBytes = size_t{16} << 30;
constexpr size_t kPage = 4096;

// Device memory: one range of addresses, closed to host code. Under ASan: blocks of malloc, so that it sees
// their ends.
class Heap {
 public:
  void* take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (held_ + bytes > kTotalBytes) return nullptr;
#ifdef EMULATOR_ASAN
    void* block = nullptr;
    if (posix_memalign(&block, 256, bytes > 0 ? bytes : 1) != 0) return nullptr;
#else
    if (base_ == nullptr) {
      void* range = mmap(nullptr, kRange, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (range == MAP_FAILED) return nullptr;
      base_ = static_cast<unsigned char*>(range);
    }
    const size_t whole =
        (bytes + kPage - 1) / kPage * kPage + kPage;  // a page that nobody owns behind each block
    void* block = nullptr;
    const auto reused = free_.lower_bound(whole);
    if (reused != free_.end() && reused->first <= 2 * whole) {
      block = reused->second;
      sizes_[block] = {bytes, reused->first};
      free_.erase(reused);
    } else {
      if (used_ + whole > kRange) return nullptr;
      block = base_ + used_;
      used_ += whole;
      sizes_[block] = {bytes, whole};
      if (open_ > 0) mprotect(block, whole, PROT_READ | PROT_WRITE);
    }
#endif
#ifdef EMULATOR_ASAN
    sizes_[block] = {bytes, bytes};
#endif
    held_ += bytes;
    return block;
  }
  bool give_back(void* block) {
    const std::lock_guard lock(mutex_);
    const auto found = sizes_.find(block);
    if (found == sizes_.end()) return false;
    held_ -= found->second.first;
#ifdef EMULATOR_ASAN
    std::free(block);
#else
    free_.emplace(found->second.second, block);
#endif
    sizes_.erase(found);
    return true;
  }
  void open() {
#ifndef EMULATOR_ASAN
    const std::lock_guard lock(mutex_);
    if (open_++ == 0 && protects_ && used_ > 0) mprotect(base_, used_, PROT_READ | PROT_WRITE);
#endif
  }
  void close() {
#ifndef EMULATOR_ASAN
    const std::lock_guard lock(mutex_);
    if (--open_ == 0 && protects_ && used_ > 0) mprotect(base_, used_, PROT_NONE);
#endif
  }
  void protect(bool protect) {
#ifndef EMULATOR_ASAN
    const std::lock_guard lock(mutex_);
    protects_ = protect;
    if (used_ > 0 && open_ == 0) mprotect(base_, used_, protect ? PROT_NONE : PROT_READ | PROT_WRITE);
#else
    (void)protect;
#endif
  }
  uint64_t held() {
    const std::lock_guard lock(mutex_);
    return held_;
  }
  // Whether the address is within a block of this heap.
  bool owns(const void* address) {
    const std::lock_guard lock(mutex_);
    auto after = sizes_.upper_bound(const_cast<void*>(address));
    if (after == sizes_.begin()) return false;
    --after;
    return static_cast<const unsigned char*>(address) <
           static_cast<const unsigned char*>(after->first) + std::max<size_t>(after->second.first, 1);
  }

 private:
  static constexpr size_t kRange = size_t{1} << 40;
  std::mutex mutex_;
  std::map<void*, std::pair<size_t, size_t>> sizes_;  // asked for, taken
  uint64_t held_ = 0;
#ifndef EMULATOR_ASAN
  std::multimap<size_t, void*> free_;
  unsigned char* base_ = nullptr;
  size_t used_ = 0;
  int open_ = 0;
  bool protects_ = true;
#endif
};

Heap& heap() {
  static Heap* const instance = new Heap;  // outlives every static of the program
  return *instance;
}

Stream& default_stream() {
  static Stream stream;
  return stream;
}

std::atomic<int64_t> launches{0}, graph_launches{0}, allocations{0}, copies{0};
std::atomic<int64_t> copies_before_failure{0};  // 0: none fails
thread_local cudaError_t last_error = cudaSuccess;
thread_local const char* next_name = "a kernel";
std::mutex shared_mutex;
std::map<const void*, int>& shared_limits() {
  static auto* const limits = new std::map<const void*, int>;
  return *limits;
}

cudaError_t failed(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

bool is_right_side(const void* to, const void* from, cudaMemcpyKind kind) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind == cudaMemcpyDefault) return true;
  // a test may use host memory as a device's, never the other way round
  return (to_device || !heap().owns(to)) && (from_device || !heap().owns(from));
}

}  // namespace

Counts counts() {
  return {launches.load(), graph_launches.load(), allocations.load(), copies.load()};
}
uint64_t held_device_bytes() {
  return heap().held();
}
void fail_copy(int64_t n) {
  copies_before_failure.store(n);
}
void protect_device_memory(bool protect) {
  heap().protect(protect);
}
OpenDeviceMemory::OpenDeviceMemory() {
  heap().open();
}
OpenDeviceMemory::~OpenDeviceMemory() {
  heap().close();
}

void name_next_launch(const char* name) {
  next_name = name;
}

cudaError_t submit(Stream* stream, std::function<void()> work) {
  Stream& target = stream != nullptr ? *stream : default_stream();
  if (target.capturing) {
    target.graph->work.push_back(std::move(work));
    return cudaSuccess;
  }
  const OpenDeviceMemory open;
  work();
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> body) {
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (config.dynamicSmemBytes > kWithoutAsking) {
    const std::lock_guard lock(shared_mutex);
    const auto found = shared_limits().find(kernel);
    if (found == shared_limits().end() || size_t(found->second) < config.dynamicSmemBytes)
      return failed(cudaErrorInvalidValue);
  }
  const dim3 grid = config.gridDim, block = config.blockDim;
  const size_t shared = config.dynamicSmemBytes;
  // threads beyond 1024, empty grids: what the driver refuses
  if (block.x * block.y * block.z > 1024 || block.x * block.y * block.z == 0 || grid.x == 0 || grid.y == 0 ||
      grid.z == 0 || grid.y > 65'535 || grid.z > 65'535 || grid.x > 0x7fffffff)
    return failed(cudaErrorInvalidValue);
  const char* const name = std::exchange(next_name, "a kernel");
  return submit(config.stream, [name, grid, block, shared, body = std::move(body)] {
    ++launches;
    run_grid(name, grid, block, shared, body);
  });
}

}  // namespace emulator

using namespace emulator;  // NOLINT: the functions below are those of the C interface

const char* cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    default:
      return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t status) {
  return cudaGetErrorName(status);
}
cudaError_t cudaGetLastError() {
  return std::exchange(last_error, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
  return last_error;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int index) {
  return index == 0 ? cudaSuccess : failed(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int index) {
  if (index != 0) return failed(cudaErrorInvalidDevice);
  *p = {};
  std::snprintf(p->name, sizeof p->name, "emulated GPU");
  p->major = 8;
  p->minor = 0;
  p->multiProcessorCount = 4;
  p->l2CacheSize = 40 << 20;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->regsPerMultiprocessor = 65'536;
  p->totalGlobalMem = kTotalBytes;
  p->sharedMemPerBlock = 48 * 1024;
  p->sharedMemPerBlockOptin = 163 * 1024;
  p->sharedMemPerMultiprocessor = 164 * 1024;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  return cudaDriverGetVersion(version);
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *total_bytes = kTotalBytes;
  *free_bytes = kTotalBytes - heap().held();
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = new Stream;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return cudaStreamCreate(stream);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  return cudaStreamCreate(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return stream != nullptr && stream->capturing ? failed(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new Event;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return cudaEventCreate(event);
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t) {
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1.0f;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** block, size_t bytes) {
  ++allocations;
  *block = heap().take(bytes);
  if (*block == nullptr) return failed(cudaErrorMemoryAllocation);
  const OpenDeviceMemory open;
  std::memset(*block, 0xff, bytes);  // NaN, until something is written
  return cudaSuccess;
}
cudaError_t cudaFree(void* block) {
  return block == nullptr || heap().give_back(block) ? cudaSuccess : failed(cudaErrorInvalidValue);
}
cudaError_t cudaMallocAsync(void** block, size_t bytes, cudaStream_t stream) {
  if (stream != nullptr && stream->capturing) return failed(cudaErrorStreamCaptureUnsupported);
  return cudaMalloc(block, bytes);
}
cudaError_t cudaFreeAsync(void* block, cudaStream_t) {
  return cudaFree(block);
}
cudaError_t cudaHostAlloc(void** block, size_t bytes, unsigned) {
  *block = std::malloc(bytes > 0 ? bytes : 1);
  return *block != nullptr ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}
cudaError_t cudaMallocHost(void** block, size_t bytes) {
  return cudaHostAlloc(block, bytes, 0);
}
cudaError_t cudaFreeHost(void* block) {
  std::free(block);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) {
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (!is_right_side(to, from, kind)) return failed(cudaErrorInvalidValue);
  ++copies;
  if (copies_before_failure.load() > 0 && copies_before_failure.fetch_sub(1) == 1)
    return failed(cudaErrorUnknown);
  return submit(stream, [=] { std::memmove(to, from, bytes); });
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t rows, cudaMemcpyKind kind, cudaStream_t stream) {
  if (!is_right_side(to, from, kind) || width > to_pitch || width > from_pitch)
    return failed(cudaErrorInvalidValue);
  ++copies;
  return submit(stream, [=] {
    for (size_t row = 0; row < rows; ++row)
      std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch,
                  width);
  });
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return submit(stream, [=] { std::memset(to, value, bytes); });
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value > 163 * 1024) return failed(cudaErrorInvalidValue);
  const std::lock_guard lock(shared_mutex);
  shared_limits()[kernel] = value;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream->capturing) return failed(cudaErrorStreamCaptureUnsupported);
  stream->capturing = true;
  stream->graph = new Graph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream->capturing) return failed(cudaErrorStreamCaptureUnsupported);
  stream->capturing = false;
  *graph = std::exchange(stream->graph, nullptr);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status =
      stream != nullptr && stream->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new GraphExec{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  ++graph_launches;
  const OpenDeviceMemory open;
  for (const auto& work : exec->work) work();
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = graph->work.size();
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return submit(stream, [=] { function(data); });
}
