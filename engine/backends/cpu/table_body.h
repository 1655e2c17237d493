// engine/backends/cpu/table_body.h: the functions of one level, collected. Last of the bodies.
#pragma once

#include "engine/backends/cpu/kernels.h"

namespace pare::cpu::PARE_ISA_NAMESPACE {

const Kernels kKernels{
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .rotary = rotary,
    .activation = activation,
    .gated_activation = gated_activation,
    .add = add,
    .softcap = softcap,
    .softmax = softmax,
    .embedding = embedding,
    .cross_entropy = cross_entropy,
    .divergence = divergence,
    .loss_rows = loss_rows,
    .attention = attention,
    .attention_backward = attention_backward,
    .rms_norm_statistics = rms_norm_statistics,
    .rms_norm_dx = rms_norm_dx,
    .rms_norm_dgain = rms_norm_dgain,
    .layer_norm_statistics = layer_norm_statistics,
    .layer_norm_dx = layer_norm_dx,
    .layer_norm_parameters = layer_norm_parameters,
    .rotary_backward = rotary_backward,
    .activation_backward = activation_backward,
    .gated_activation_backward = gated_activation_backward,
    .softmax_backward = softmax_backward,
    .embedding_backward = embedding_backward,
    .adamw = adamw,
    .sgd = sgd,
    .sum_of_squares = sum_of_squares,
    .fake_quantize = fake_quantize,
    .fake_quantize_backward = fake_quantize_backward,
    .scale_row = scale_row,
    .exp = exp_all,
    .exp_nonpositive = exp_nonpositive_all,
    .exp2_nonpositive = exp2_nonpositive_all,
    .log = log_all,
    .tanh = tanh_all,
    .normal_distribution = normal_distribution_all,
};

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
