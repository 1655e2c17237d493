// Recording and replaying decode steps, and what stands around them: attention, numbers for the host.
#include <utility>

#include "engine/backends/cuda/attention_decode.h"
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/decode_class.h"
#include "engine/backends/cuda/prefetcher.h"

namespace pare::cuda {
namespace {

class Recorded final : public DecodeGraph {
 public:
  Recorded(Context& context, cudaGraphExec_t exec, int64_t nodes)
      : context_(context), exec_(exec), nodes_(nodes), scratch_(context.scratch_block()) {}
  ~Recorded() override {
    cudaStreamSynchronize(context_.stream());
    cudaGraphExecDestroy(exec_);
  }
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;
  int64_t kernels() const override { return nodes_; }
  cudaGraphExec_t exec() const { return exec_; }

 private:
  Context& context_;
  cudaGraphExec_t exec_;
  int64_t nodes_;
  std::shared_ptr<void> scratch_;  // its address is part of the recording
};

class Pinned final : public DecodePinned {
 public:
  Pinned(Context& context, int32_t* data) : context_(context), data_(data) {}
  ~Pinned() override {
    cudaStreamSynchronize(context_.stream());
    cudaFreeHost(data_);
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  int32_t* data() const override { return data_; }

 private:
  Context& context_;
  int32_t* data_;
};

AttentionArgs attention_args(const DecodeAttentionArgs& a) {
  const DecodeCache& cache = a.cache;
  const int64_t row = cache.kv.is_none() ? a.head_dim : cache.kv.row_bytes(a.head_dim);
  return {.q = a.q,
          .k = cache.keys,
          .v = cache.values,
          .out = a.out,
          .kv_dtype = cache.dtype,
          .sequences = a.rows,
          .query_tokens = 1,
          .key_tokens = a.longest,
          .query_offset = 0,
          .heads = a.heads,
          .kv_heads = a.kv_heads,
          .head_dim = a.head_dim,
          .q_stride = a.q_stride,
          .out_stride = a.heads * a.head_dim,
          .kv_sequence_stride = a.kv_heads * cache.capacity * row,
          .kv_head_stride = cache.capacity * row,
          .kv_position_stride = row,
          .scale = a.scale,
          .softcap = a.softcap,
          .window = a.window,
          .causal = true,
          .kv = cache.kv,
          .k_scales = cache.key_scales,
          .v_scales = cache.value_scales,
          .k_zeros = cache.key_zeros,
          .v_zeros = cache.value_zeros,
          .grid_head_stride = cache.capacity};
}

}  // namespace

DecodeBackend* CudaBackend::decoding() {
  return &decode_;
}

CudaDecode::~CudaDecode() {
  for (cudaEvent_t event : marks_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

// Partial results go to the scratch of the context; a recording keeps it.
void CudaDecode::attention(const DecodeAttentionArgs& a) {
  attention_decode(
      context_,
      {.attention = attention_args(a), .lengths = a.positions, .length_offset = 1, .is_dependent = true});
}

Status CudaDecode::begin_capture() {
  PARE_ASSERT(!context_.is_capturing(), "[decode] a capture within a capture");
  context_.prefetcher().forget();  // a recording must not wait for what is not recorded
  PARE_CHECK(context_.take_error());
  context_.note(cudaStreamBeginCapture(context_.stream(), cudaStreamCaptureModeThreadLocal), "begin_capture");
  PARE_CHECK(context_.take_error());
  context_.set_capturing(true);
  return {};
}

Result<std::unique_ptr<DecodeGraph>> CudaDecode::end_capture() {
  PARE_ASSERT(context_.is_capturing(), "[decode] no capture to end");
  context_.set_capturing(false);
  cudaGraph_t graph = nullptr;
  context_.note(cudaStreamEndCapture(context_.stream(), &graph), "end_capture");
  cudaGraphExec_t exec = nullptr;
  size_t nodes = 0;  // kernels of libraries, copies and fills too: our own launches alone would flatter what
                     // is not fused
  if (!context_.failed()) context_.note(cudaGraphGetNodes(graph, nullptr, &nodes), "cudaGraphGetNodes");
  if (!context_.failed()) context_.note(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (const Status status = context_.take_error(); !status) {
    if (exec != nullptr) cudaGraphExecDestroy(exec);
    return status.error();
  }
  return std::unique_ptr<DecodeGraph>(std::make_unique<Recorded>(context_, exec, int64_t(nodes)));
}

Status CudaDecode::launch(DecodeGraph& graph) {
  context_.note(cudaGraphLaunch(static_cast<Recorded&>(graph).exec(), context_.stream()), "cudaGraphLaunch");
  return context_.take_error();
}

Result<std::unique_ptr<DecodePinned>> CudaDecode::pinned(int64_t count) {
  void* data = nullptr;
  context_.note(cudaHostAlloc(&data, size_t(count) * sizeof(int32_t), cudaHostAllocMapped), "cudaHostAlloc");
  PARE_CHECK(context_.take_error());
  return std::unique_ptr<DecodePinned>(std::make_unique<Pinned>(context_, static_cast<int32_t*>(data)));
}

Status CudaDecode::mark(int64_t number) {
  cudaEvent_t& event = marks_[number % kDecodeMarks];
  if (event == nullptr)
    context_.note(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  if (!context_.failed()) context_.note(cudaEventRecord(event, context_.stream()), "cudaEventRecord");
  return context_.take_error();
}

Status CudaDecode::wait(int64_t number) {
  context_.note(cudaEventSynchronize(marks_[number % kDecodeMarks]), "a step of decoding");
  return context_.take_error();
}

}  // namespace pare::cuda
