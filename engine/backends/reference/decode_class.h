// engine/backends/reference/decode_class.h: the fused operations of a decode step, scalar and in double where
// they compute: the definition that every other backend is compared with. Over memory of the host.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/tensor/decode_backend.h"

namespace pare::reference {

class ReferenceDecode final : public DecodeBackend {
 public:
  ReferenceDecode();
  ~ReferenceDecode() override;

  std::string why_not_fused(const DecodeMatrix* matrices, int count, int64_t rows) const override;

  void embed(const DecodeEmbedArgs& a) override;
  void heads(const DecodeHeadsArgs& a) override;
  void qkv(const DecodeQkvArgs& a) override;
  void attention(const DecodeAttentionArgs& a) override;
  void product(const DecodeProductArgs& a) override;
  void gated(const DecodeGatedArgs& a) override;
  void choose(const DecodeChooseArgs& a) override;

  size_t choose_workspace_bytes(int64_t, int64_t) const override { return 0; }

  Status begin_capture() override;
  Result<std::unique_ptr<DecodeGraph>> end_capture() override;
  Status launch(DecodeGraph& graph) override;
  Result<std::unique_ptr<DecodePinned>> pinned(int64_t count) override;
  Status mark(int64_t) override { return {}; }  // everything is done at once
  Status wait(int64_t) override { return {}; }

 private:
  // Runs now, or is recorded.
  void submit(std::function<void()> work);
  void run_qkv(const DecodeQkvArgs& a);
  void run_attention(const DecodeAttentionArgs& a);
  void run_product(const DecodeProductArgs& a);
  void run_gated(const DecodeGatedArgs& a);
  // norm(x) * W^T + bias, [rows, out]
  std::vector<float> multiplied(const DecodeRowsIn& in, const DecodeMatrix& matrix);

  std::unique_ptr<Backend> backend_;
  bool is_capturing_ = false;
  std::vector<std::function<void()>> recorded_;
};

// Heads of new tokens (DecodeHeadsArgs) and the choice of the next id (DecodeChooseArgs), as they are
// defined.
void finish_heads(const DecodeHeadsArgs& a);
void choose_rows(const DecodeChooseArgs& a);

}  // namespace pare::reference
