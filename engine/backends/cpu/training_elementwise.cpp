// Gradients of norms, rotary, activations, softmax and embedding
#include "engine/backends/cpu/kernels.h"
#include "engine/backends/cpu/pieces.h"
#include "engine/backends/cpu/training_class.h"

namespace pare::cpu {

// What the rows of a norm have in common comes first. dx goes with it while a row is at hand, unless it would
// overwrite the dout that the gradients of parameters read.
void CpuTraining::rms_norm_backward(const RmsNormBackwardArgs& a) {
  const Kernels& k = kernels(isa_);
  const bool dx_last = a.dgain != nullptr && a.dx == a.dout;
  for_rows(a.tokens, a.channels, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      k.rms_norm_statistics(a, t, t + 1);
      if (!dx_last) k.rms_norm_dx(a, t, t + 1);
    }
  });
  if (a.dgain == nullptr) return;
  for_channels(a.channels, a.tokens, [&](int64_t begin, int64_t end) { k.rms_norm_dgain(a, begin, end); });
  if (dx_last)
    for_rows(a.tokens, a.channels, [&](int64_t begin, int64_t end) { k.rms_norm_dx(a, begin, end); });
}

void CpuTraining::layer_norm_backward(const LayerNormBackwardArgs& a) {
  const Kernels& k = kernels(isa_);
  const bool has_parameters = a.dgain != nullptr || a.dbias != nullptr;
  const bool dx_last = has_parameters && a.dx == a.dout;
  for_rows(a.tokens, a.channels, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      k.layer_norm_statistics(a, t, t + 1);
      if (!dx_last) k.layer_norm_dx(a, t, t + 1);
    }
  });
  if (!has_parameters) return;
  for_channels(a.channels, a.tokens,
               [&](int64_t begin, int64_t end) { k.layer_norm_parameters(a, begin, end); });
  if (dx_last)
    for_rows(a.tokens, a.channels, [&](int64_t begin, int64_t end) { k.layer_norm_dx(a, begin, end); });
}

void CpuTraining::rotary_backward(const RotaryArgs& a) {
  const Kernels& k = kernels(isa_);
  for_rows(a.tokens, a.heads * a.rotary_dim,
           [&](int64_t begin, int64_t end) { k.rotary_backward(a, begin, end); });
}

void CpuTraining::activation_backward(const ActivationBackwardArgs& a) {
  const Kernels& k = kernels(isa_);
  for_rows(a.rows, a.columns, [&](int64_t begin, int64_t end) { k.activation_backward(a, begin, end); });
}

void CpuTraining::gated_activation_backward(const GatedActivationBackwardArgs& a) {
  const Kernels& k = kernels(isa_);
  for_rows(a.rows, a.columns,
           [&](int64_t begin, int64_t end) { k.gated_activation_backward(a, begin, end); });
}

void CpuTraining::softmax_backward(const SoftmaxBackwardArgs& a) {
  const Kernels& k = kernels(isa_);
  for_rows(a.rows, a.columns, [&](int64_t begin, int64_t end) { k.softmax_backward(a, begin, end); });
}

void CpuTraining::embedding_backward(const EmbeddingBackwardArgs& a) {
  const Kernels& k = kernels(isa_);
  for_channels(a.channels, a.tokens,
               [&](int64_t begin, int64_t end) { k.embedding_backward(a, begin, end); });
}

}  // namespace pare::cpu
