// engine/models/weight.h: one named matrix in whichever form, ready to multiply.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/models/weight_source.h"
#include "engine/tensor/packed_layout.h"
#include "engine/tensor/workspace.h"

namespace pare {

struct WeightTraining;  // weight_training.h
struct LinearInput;     // layers/linear_input.h

// What a weight is asked to do; decides which forms of a quantized one are kept.
enum class WeightUse : uint8_t { multiply, gather, both };

class Weight {
 public:
  Weight() = default;
  // Dense matrices stored [in, out] are transposed once here; quantized ones are repacked for the device,
  // sparse ones too where the backend's table says that this is faster, else they are expanded; low-rank ones
  // stay two factors, so that multiply() is two products (and that of the base), except where rows are
  // gathered. bias: f32 [out] or undefined. Exit 4 or 6.
  static Result<Weight> make(std::string name, const WeightData& data, bool transposed, Tensor bias,
                             Device device, WeightUse use = WeightUse::multiply);
  // A weight without values that knows its workspace_bytes(), to plan before loading. [out, in] is what the
  // model multiplies with, whatever order the checkpoint has.
  static Weight planned(const StoredTensor& stored, int64_t out, int64_t in, Device device);

  // Bytes that make() will hold for it, without the bias.
  static uint64_t planned_bytes(const StoredTensor& stored);

  bool defined() const {
    return dense_.defined() || packed_.defined() || quantized_ != nullptr || left_.defined();
  }
  // True when nothing of the source's bytes is used any more, so that they may be released.
  bool is_copy() const { return is_copy_; }
  const std::string& name() const { return name_; }
  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  uint64_t size_bytes() const;
  // The form it multiplies or gathers with; undefined or null where it is another one.
  const Tensor& dense() const { return dense_; }
  const PackedMatrix& packed() const { return packed_; }
  const QuantizedTensor* quantized() const { return quantized_.get(); }
  const Tensor& bias() const { return bias_; }
  Device device() const { return device_; }
  // What its input would be rounded for (ops::reads_rounded), also of a planned weight; null where its input
  // is read as floats.
  const PackedMatrix* rounded_form() const;

  // out (+)= x * W^T + bias
  void multiply(const Tensor& x, bool accumulate, Tensor& out, Workspace& workspace) const;
  void multiply(const LinearInput& x, bool accumulate, Tensor& out, Workspace& workspace) const;
  size_t workspace_bytes(int64_t tokens) const;
  // Rows by id into out [tokens, in]; for embeddings.
  void gather(const Tensor& ids, float scale, bool accumulate, Tensor& out) const;

  // A matrix in training (weight_training.h): multiplies with its working copy or its factors, and has
  // gradients.
  static Result<Weight> make_trained(std::string name, std::shared_ptr<WeightTraining> training, Tensor bias,
                                     Tensor dbias, Device device);
  void train_bias(Tensor dbias) { dbias_ = std::move(dbias); }
  // Of multiply(x) -> out: dx (+)= dout * W where dx is wanted (not null); gradients of parameters are added
  // to. Matrices that are not trained give dx too, if they are dense.
  void backward(const Tensor& x, const Tensor& dout, bool accumulate, Tensor* dx, Workspace& workspace) const;
  // dx = dout * W alone, for callers that need it before the gradient of the matrix. Not for matrices whose
  // transform changes inputs.
  void backward_input(const Tensor& dout, Tensor& dx, Workspace& workspace) const;
  size_t backward_workspace_bytes(int64_t tokens) const;
  // Of gather(): the rows' gradients are added to.
  void gather_backward(const Tensor& ids, const Tensor& dout, float scale) const;

 private:
  Status make_sparse(std::shared_ptr<const SparseTensor> weight, WeightUse use);
  Status make_low_rank(const LowRankTensor& tensor, WeightUse use);

  std::string name_;
  int64_t out_ = 0, in_ = 0;
  Device device_;
  bool is_copy_ = false;
  Tensor dense_;  // [out, in]
  PackedMatrix packed_;
  std::shared_ptr<const QuantizedTensor> quantized_;  // kept for gather()
  Tensor left_, right_;                               // [out, rank] and [rank, in]
  int64_t rank_ = 0;                                  // > 0: multiply by the factors
  std::shared_ptr<const Weight> base_;                // added to their product; may be none
  Tensor bias_;
  std::shared_ptr<WeightTraining> training_;  // null: not trained
  mutable Tensor dbias_;                      // f32 [out], added to; undefined: not trained
};

}  // namespace pare
