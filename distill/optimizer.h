// distill/optimizer.h: AdamW and SGD over the parameters of a model, in f32, with decoupled decay, clipping
// by the global norm, and states that may be shared out over processes (ZeRO-1).
//
//   norm = optimizer->gradient_norm(scale);             // of gradients * scale, over weights that are kept
//   optimizer->step(lr, scale * clip_factor(norm, 1.0))
//
// Which rate and decay a parameter gets follows from its kind:
//   matrix, adapter   lr, decay
//   embedding         lr, decay only with decays_embeddings
//   norm, bias        lr, no decay
//   step              lr * step_rate, no decay (steps of grids; Source: Esser et al., "Learned step size
//   quantization")
// Removed weights (Parameter::mask) stay zero, and so do their moments.
// Source: Loshchilov and Hutter, "Decoupled weight decay regularization" (2019); Rajbhandari et al., "ZeRO"
// (2020).
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "distill/gradient_exchange.h"
#include "distill/trainer_state.h"
#include "engine/core/json.h"
#include "engine/models/parameter.h"

namespace pare {

enum class OptimizerKind : uint8_t { adamw, sgd };
std::string_view optimizer_kind_name(OptimizerKind kind);               // "adamw", "sgd"
Result<OptimizerKind> optimizer_kind_from_name(std::string_view name);  // exit 2 (CL06)

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::adamw;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;  // adamw; betas in [0, 1), eps > 0
  double momentum = 0.9;                         // sgd; [0, 1), 0: no second tensor
  double decay = 0.1;                            // >= 0
  bool decays_embeddings = false;
  double step_rate = 10.0;     // > 0
  double clip_norm = 1.0;      // > 0, or 0: gradients are not clipped
  bool shards_states = false;  // each rank keeps the moments of its share of the weights and updates those

  Status validate() const;  // exit 2 (CL06)
  Json to_json() const;     // without shards_states, which changes no result
};

// min(1, clip / (norm + 1e-6)); 1 when clip is 0.
double clip_factor(double norm, double clip);

class Optimizer {
 public:
  // Moments of zero. `exchange` and the parameters' tensors outlive the optimizer. Exit 2, 6.
  static Result<std::unique_ptr<Optimizer>> make(ParameterList parameters, const OptimizerConfig& config,
                                                 GradientExchange& exchange);
  ~Optimizer();

  // Bytes of moments that this rank of `size` keeps.
  static uint64_t planned_bytes(const ParameterList& parameters, const OptimizerConfig& config, int size);

  const OptimizerConfig& config() const;
  int64_t steps() const;  // taken so far
  const ParameterList& parameters() const;

  // Gradients of removed weights become zero; then sqrt(sum (gradient * scale)^2) over everything, in double.
  // Infinite or NaN when a gradient is, or when a GPU broke off (its next wait tells). Exit 6.
  Result<double> gradient_norm(double scale);
  // One update with gradients * scale. With shards every rank gets the others' weights. Exit 5.
  Status step(double lr, double scale);
  // Weights and moments that a mask removes become zero: after masks changed between steps. Exit 6.
  Status apply_masks();

  // Moments by name: "m:<parameter>", "v:<parameter>"; steps() in the JSON. Complete on rank 0, empty on
  // others. Collective. Exit 5, 6.
  Status save(TrainerState& state);
  // Exit 3 when a tensor is missing or of another shape.
  Status restore(const TrainerState& state);

 private:
  Optimizer();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pare
