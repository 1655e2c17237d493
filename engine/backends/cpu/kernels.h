// engine/backends/cpu/kernels.h: the vector kernels of one level as a table of functions.
//
// Kernels take rows [begin, end) of an operation and run on the calling thread; a row's result depends on
// that row alone, so the caller may cut as it likes. Only isa_<level>.cpp files are compiled with
// instruction-set flags; they hold nothing but these functions in a namespace of their own, so that the
// linker cannot pick an AVX copy of something shared.
#pragma once

#include <cstdint>

#include "engine/backends/cpu/attention_plan.h"
#include "engine/backends/cpu/isa.h"
#include "engine/tensor/training_backend.h"

namespace pare::cpu {

struct Kernels {
  void (*rms_norm)(const RmsNormArgs&, int64_t begin, int64_t end);
  void (*layer_norm)(const LayerNormArgs&, int64_t begin, int64_t end);
  void (*rotary)(const RotaryArgs&, int64_t begin, int64_t end);
  void (*activation)(const ActivationArgs&, int64_t begin, int64_t end);
  void (*gated_activation)(const GatedActivationArgs&, int64_t begin, int64_t end);
  void (*add)(const AddArgs&, int64_t begin, int64_t end);          // elements
  void (*softcap)(const SoftcapArgs&, int64_t begin, int64_t end);  // elements
  void (*softmax)(const SoftmaxArgs&, int64_t begin, int64_t end);
  void (*embedding)(const EmbeddingArgs&, int64_t begin, int64_t end);
  void (*cross_entropy)(const CrossEntropyArgs&, int64_t begin, int64_t end);
  void (*divergence)(const DivergenceArgs&, int64_t begin, int64_t end);
  void (*loss_rows)(const LossRowsArgs&, int64_t begin, int64_t end);
  void (*attention)(const AttentionArgs&, const AttentionPlan&, int64_t item);
  // sequence_head: of sequences * kv_heads
  void (*attention_backward)(const AttentionBackwardArgs&, const AttentionBackwardPlan&,
                             int64_t sequence_head, int64_t query_chunk, int64_t key_chunk);

  // Training. Of a norm: what its rows have in common, into the scratch of the arguments; then, in any order,
  // dx of rows and the gradients of parameters, of channels [begin, end).
  void (*rms_norm_statistics)(const RmsNormBackwardArgs&, int64_t begin, int64_t end);
  void (*rms_norm_dx)(const RmsNormBackwardArgs&, int64_t begin, int64_t end);
  void (*rms_norm_dgain)(const RmsNormBackwardArgs&, int64_t begin, int64_t end);
  void (*layer_norm_statistics)(const LayerNormBackwardArgs&, int64_t begin, int64_t end);
  void (*layer_norm_dx)(const LayerNormBackwardArgs&, int64_t begin, int64_t end);
  void (*layer_norm_parameters)(const LayerNormBackwardArgs&, int64_t begin, int64_t end);
  void (*rotary_backward)(const RotaryArgs&, int64_t begin, int64_t end);
  void (*activation_backward)(const ActivationBackwardArgs&, int64_t begin, int64_t end);
  void (*gated_activation_backward)(const GatedActivationBackwardArgs&, int64_t begin, int64_t end);
  void (*softmax_backward)(const SoftmaxBackwardArgs&, int64_t begin, int64_t end);
  void (*embedding_backward)(const EmbeddingBackwardArgs&, int64_t begin,
                             int64_t end);  // channels, all tokens
  // Rows of a matrix with a mask, else elements.
  void (*adamw)(const AdamWArgs&, int64_t begin, int64_t end);
  void (*sgd)(const SgdArgs&, int64_t begin, int64_t end);
  double (*sum_of_squares)(const float* x, int64_t count);
  void (*fake_quantize)(const FakeQuantizeArgs&, int64_t begin, int64_t end);
  void (*fake_quantize_backward)(const FakeQuantizeBackwardArgs&, int64_t begin, int64_t end);

  // out[i] (+)= scale * x[i], for rows that are made outside (quantized tables)
  void (*scale_row)(const float* x, float scale, bool accumulate, float* out, int64_t count);

  // The functions that the operations are made of, elementwise; x may alias out.
  void (*exp)(const float* x, float* out, int64_t count);
  void (*exp_nonpositive)(const float* x, float* out, int64_t count);
  void (*exp2_nonpositive)(const float* x, float* out, int64_t count);
  void (*log)(const float* x, float* out, int64_t count);  // of normal x > 0
  void (*tanh)(const float* x, float* out, int64_t count);
  void (*normal_distribution)(const float* x, float* out, int64_t count);
};

namespace vector_generic {
extern const Kernels kKernels;
}
namespace vector_avx2 {
extern const Kernels kKernels;
}
namespace vector_avx512 {
extern const Kernels kKernels;
}

const Kernels& kernels(Isa isa);

}  // namespace pare::cpu
