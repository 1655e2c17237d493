// quantize/gptq.h: rounding with the error of each column carried into the columns that are still to come.
// Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
// (2023); act-order with static groups as in later releases of its code. Exact steps: docs/methods.md.
#pragma once

#include <string>
#include <string_view>

#include "calibrate/hessian.h"
#include "calibrate/vector_level.h"
#include "engine/core/result.h"
#include "engine/tensor/mask.h"
#include "quantize/quantizer.h"

namespace pare {

struct GptqOptions {
  int64_t block = 128;        // columns between updates of the rest; the codes do not depend on it in exact
                              // arithmetic
  bool static_groups = true;  // grids from the original weights; else from the weights as changed so far
  bool keep_better = true;    // plain rounding on the same grids when its output error is smaller
  // Weights that must stay zero (they are zero in `weight`); the others make up for nothing new but their own
  // rounding. Null: all are free.
  const Mask* keep = nullptr;
  VectorLevel level = VectorLevel::avx512;  // the widest vectors that may be used; the result is the same
};

struct GptqOutput {
  QuantizeOutput result;
  double loss = 0.0;              // 1/2 sum e^2 = 1/2 tr(D (H + damping) D^T) over live columns
  double output_error = 0.0;      // sqrt(tr(D H D^T) / tr(W H W^T)), undamped
  double rtn_output_error = 0.0;  // of plain rounding on the same grids
  bool kept_rtn = false;          // plain rounding was better and was kept
};

// weight: f32 [out, in]. moment: X^T X f32 [in, in]. factor: of that moment, not failed; the linears of one
// site share it. Grids are fitted to `weight`, on hosts. With moment and factor on a GPU the sweep
// is made there (gptq_device.h). A factor without data gives plain rounding. Exit 7 for scales
// that do not fit their type (NU17).
Result<GptqOutput> gptq(const Tensor& weight, const Tensor& moment, const HessianFactor& factor,
                        const QuantScheme& scheme, const QuantizeOptions& options, const GptqOptions& gptq,
                        std::string_view name);

}  // namespace pare
