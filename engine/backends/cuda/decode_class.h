// engine/backends/cuda/decode_class.h: fused decode steps on a GPU.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "engine/backends/cuda/context.h"
#include "engine/tensor/decode_backend.h"

namespace pare::cuda {

class CudaDecode final : public DecodeBackend {
 public:
  explicit CudaDecode(Context& context) : context_(context) {}
  ~CudaDecode() override;

  std::string why_not_fused(const DecodeMatrix* matrices, int count, int64_t rows) const override;

  void embed(const DecodeEmbedArgs& a) override;  // decode_heads.cu
  void heads(const DecodeHeadsArgs& a) override;
  void qkv(const DecodeQkvArgs& a) override;              // decode_product.cpp
  void attention(const DecodeAttentionArgs& a) override;  // decode_graph.cpp
  void product(const DecodeProductArgs& a) override;
  void gated(const DecodeGatedArgs& a) override;
  void choose(const DecodeChooseArgs& a) override;  // decode_choose.cu

  size_t choose_workspace_bytes(int64_t rows, int64_t columns) const override;

  Status begin_capture() override;  // decode_graph.cpp
  Result<std::unique_ptr<DecodeGraph>> end_capture() override;
  Status launch(DecodeGraph& graph) override;
  Result<std::unique_ptr<DecodePinned>> pinned(int64_t count) override;
  Status mark(int64_t number) override;
  Status wait(int64_t number) override;

 private:
  Context& context_;
  cudaEvent_t marks_[kDecodeMarks] = {};
};

}  // namespace pare::cuda
