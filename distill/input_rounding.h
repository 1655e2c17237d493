// distill/input_rounding.h: the inputs of a linear rounded as its integer product will round them, with the
// straight-through gradient.
//
// A dynamic scale is found per token (engine/tensor/integer_product.h) and counts as constant: no value lies
// outside its range, so gradients pass as they are. A static scale is learned like the steps of weights:
//   dx = dout inside the range, else 0
//   dscale += 1 / sqrt(in * largest code) * sum dout * (inside: rint(x / s) - x / s; outside: the end of the
//   range)
// Source: Esser et al., "Learned step size quantization" (2020).
#pragma once

#include <memory>
#include <string>

#include "engine/models/parameter.h"
#include "engine/tensor/activation_quant.h"

namespace pare {

class InputRounding {
 public:
  // `in`: columns of the inputs. A static scale starts at activation.scale; its parameter is
  // `<name>:input_scale`, f32 [1, 1]. Exit 3 for an activation that is not valid, 6.
  static Result<InputRounding> make(const std::string& name, const ActivationQuant& activation, int64_t in,
                                    Device device);

  // Null for dynamic scales.
  const std::shared_ptr<Parameter>& step() const { return step_; }
  // Brings the learned scale back above 1e-8. Exit 7 when it is not finite; on a GPU it becomes NaN instead,
  // and with it the next loss.
  Status keep_positive();
  // As it is stored with the matrix: the scale is the learned one.
  Result<ActivationQuant> current() const;  // exit 6

  // x, out f32 [tokens, in], rows may have gaps; out may alias x. A token that is not finite becomes NaN.
  void forward(const Tensor& x, Tensor& out) const;
  // dx from the gradient of out, in place; adds to the gradient of the step.
  void backward(const Tensor& x, Tensor& dx) const;

 private:
  std::string name_;
  ActivationQuant activation_;
  std::shared_ptr<Parameter> step_;
};

}  // namespace pare
