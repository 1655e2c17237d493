// distill/qat.h: matrices that are trained as their codes will see them (quantization-aware training).
//
//   forward    effective = s (clamp(rint(w / s) + zero, low, high) - zero), s the step as it is stored
//   backward   straight through inside the range, 0 outside; steps by the LSQ rule with 1 / sqrt(n * largest
//   code),
//              n weights sharing a step
// Steps are learned in f32, kept positive, and rounded to the scheme's scale type in forward, so that what is
// stored dequantizes to the same bits that multiplied. Source: algorithms.md 7.6; Esser et al., "Learned step
// size quantization" (2020).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "distill/step_init.h"
#include "engine/models/parameter.h"
#include "engine/tensor/quantized_tensor.h"

namespace pare {

struct QatOptions {
  QuantScheme scheme;  // integer, symmetric or with zero points
  StepInit step_init = StepInit::least_squares;
  bool learns_steps = true;  // else they stay where they start
  // How inputs are rounded too; a static scale is learned from where it is.
  std::optional<ActivationQuant> activation = std::nullopt;
};

// The transform of one matrix. Its parameters are `<name>:scales` f32 [out, groups] ([1, 1] for a scale per
// tensor) and, with a static activation, `<name>:input_scale`. forward() fails with exit 7 when a step is not
// finite (on a GPU the effective matrix becomes NaN instead). Zero points stay where they start. Exit 4
// (RC14, PK20) for a scheme or an activation that cannot be trained; 3 for an impossible activation; 7 for
// weights that are not finite; 6.
Result<std::unique_ptr<WeightTransform>> make_fake_quantizer(const std::string& name, const Tensor& master,
                                                             const QatOptions& options);

// The same with steps and zero points of codes that exist (of GPTQ, say), whose scheme counts; without
// options.activation inputs are rounded as the codes say. master [out, in] as the codes. Exit 4 also for
// groups in another order of columns.
Result<std::unique_ptr<WeightTransform>> make_fake_quantizer(const std::string& name, const Tensor& master,
                                                             const QuantizedTensor& codes,
                                                             const QatOptions& options);

}  // namespace pare
