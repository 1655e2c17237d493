// Gradients of matrices in their forms of training.
#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/models/weight.h"
#include "engine/models/weight_training.h"
#include "engine/tensor/training_ops.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

// On one device.
void copy_rows(const Tensor& from, Tensor& to) {
  if (!from.device().is_host()) {
    static_cast<void>(copy_into(from, to));  // an error of the device is told at the next wait
    return;
  }
  constexpr int64_t kRowsAtOnce = 64;
  const size_t bytes = size_t(from.size(1)) * sizeof(float);
  parallel_ranges(from.size(0), kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      std::memcpy(to.mutable_data<float>() + row * to.row_stride(),
                  from.data<float>() + row * from.row_stride(), bytes);
  });
}

}  // namespace

Result<Weight> Weight::make_trained(std::string name, std::shared_ptr<WeightTraining> training, Tensor bias,
                                    Tensor dbias, Device device) {
  Weight weight;
  weight.name_ = std::move(name);
  weight.device_ = device;
  weight.is_copy_ = true;
  weight.bias_ = std::move(bias);
  weight.dbias_ = std::move(dbias);
  if (training->is_factored()) {
    weight.left_ = training->left->value;
    weight.right_ = training->is_adapter ? training->scaled_right : training->right->value;
    weight.out_ = weight.left_.size(0);
    weight.in_ = weight.right_.size(1);
    weight.rank_ = weight.right_.size(0);
    if (training->has_frozen) {
      WeightData values = training->frozen;
      if (!values.is_dense()) {
        PARE_TRY(values.form, values.to_dense_tensor());
      }
      PARE_TRY(Weight base, make(weight.name_, values, false, Tensor(), device));
      weight.base_ = std::make_shared<const Weight>(std::move(base));
    }
  } else {
    weight.dense_ = training->working;
    weight.out_ = weight.dense_.size(0);
    weight.in_ = weight.dense_.size(1);
  }
  weight.training_ = std::move(training);
  return weight;
}

void Weight::backward(const Tensor& x, const Tensor& dout, bool accumulate, Tensor* dx,
                      Workspace& workspace) const {
  const int64_t tokens = in_ == 0 ? 0 : x.numel() / in_;
  Tensor bias_gradient = dbias_;  // a view
  if (rank_ > 0) {
    // out = base x + left inner, inner = right x
    const Workspace::Scope scope(workspace);
    Tensor inner = workspace.take(DType::f32, {tokens, rank_});
    Tensor dinner = workspace.take(DType::f32, {tokens, rank_});
    ops::matmul_input_backward(dout, left_, /*accumulate=*/false, dinner, workspace);
    if (training_ != nullptr) {
      Tensor none;
      ops::matmul(x, right_, Tensor(), /*accumulate=*/false, inner, workspace);
      ops::matmul_weight_backward(inner, dout, training_->left->gradient, bias_gradient, workspace);
      ops::matmul_weight_backward(x, dinner, training_->right->gradient, none, workspace);
    }
    if (dx == nullptr) return;
    ops::matmul_input_backward(dinner, right_, accumulate, *dx, workspace);
    if (base_ != nullptr) base_->backward(x, dout, /*accumulate=*/true, dx, workspace);
    return;
  }
  PARE_ASSERT(dense_.defined(), "[weight] {} is packed and has no gradient", name_);
  const bool changes_inputs =
      training_ != nullptr && training_->transform != nullptr && training_->transform->changes_inputs();
  if (!changes_inputs) {
    if (training_ != nullptr) {
      ops::matmul_weight_backward(x, dout, training_->gradient, bias_gradient, workspace);
    } else if (bias_gradient.defined()) {
      ops::column_sums(dout, bias_gradient);  // the matrix is not trained, its bias is
    }
    if (dx != nullptr) ops::matmul_input_backward(dout, dense_, accumulate, *dx, workspace);
    return;
  }
  const Workspace::Scope scope(workspace);
  Tensor changed = workspace.take(DType::f32, x.shape());
  training_->transform->forward_inputs(x, changed);
  ops::matmul_weight_backward(changed, dout, training_->gradient, bias_gradient, workspace);
  // The gradient of a learned step is wanted even where that of x is not.
  ops::matmul_input_backward(dout, dense_, /*accumulate=*/false, changed, workspace);
  training_->transform->backward_inputs(x, changed);
  if (dx == nullptr) return;
  if (accumulate) {
    ops::add(*dx, changed, *dx);
  } else {
    copy_rows(changed, *dx);
  }
}

void Weight::backward_input(const Tensor& dout, Tensor& dx, Workspace& workspace) const {
  PARE_ASSERT(
      training_ == nullptr || training_->transform == nullptr || !training_->transform->changes_inputs(),
      "[weight] the inputs of {} are transformed", name_);
  if (rank_ == 0) {
    ops::matmul_input_backward(dout, dense_, /*accumulate=*/false, dx, workspace);
    return;
  }
  const Workspace::Scope scope(workspace);
  Tensor dinner = workspace.take(DType::f32, {dout.size(0), rank_});
  ops::matmul_input_backward(dout, left_, /*accumulate=*/false, dinner, workspace);
  ops::matmul_input_backward(dinner, right_, /*accumulate=*/false, dx, workspace);
  if (base_ != nullptr) ops::matmul_input_backward(dout, base_->dense_, /*accumulate=*/true, dx, workspace);
}

size_t Weight::backward_workspace_bytes(int64_t tokens) const {
  const auto products = [&](int64_t out, int64_t in) {
    return std::max({ops::matmul_workspace_bytes(device_, tokens, out, in),
                     ops::matmul_input_backward_workspace_bytes(device_, tokens, out, in),
                     ops::matmul_weight_backward_workspace_bytes(device_, tokens, out, in)});
  };
  if (rank_ > 0) {
    const size_t base = base_ != nullptr ? base_->backward_workspace_bytes(tokens) : 0;
    return 2 * Workspace::bytes_for(DType::f32, {tokens, rank_}) +
           std::max({products(out_, rank_), products(rank_, in_), base});
  }
  return Workspace::bytes_for(DType::f32, {tokens, in_}) + products(out_, in_);
}

void Weight::gather_backward(const Tensor& ids, const Tensor& dout, float scale) const {
  if (training_ == nullptr) return;
  ops::embedding_backward(ids, dout, scale, training_->gradient);
}

}  // namespace pare
