#include "engine/models/layers/linear_input.h"

#include <algorithm>

namespace pare {

LinearReaders::LinearReaders(std::initializer_list<const Weight*> weights) {
  bool share = true;
  for (const Weight* weight : weights) {
    if (weight->out() == 0) continue;
    const PackedMatrix* form = weight->rounded_form();
    device_ = weight->device();
    share = share && form != nullptr &&
            (count_ == 0 ? ops::reads_rounded(device_, *form) : ops::rounds_alike(device_, *form_, *form));
    if (share) form_ = form;
    ++count_;
  }
  if (!share) form_ = nullptr;
}

LinearInput LinearReaders::input(const Tensor& x, Workspace& workspace) const {
  if (form_ == nullptr || count_ < 2) return {.x = x, .rounded = {}};
  return {.x = {}, .rounded = ops::round_rows(x, *form_, workspace)};
}

LinearInput LinearReaders::input(const Norm& norm, const Tensor& x, Workspace& workspace) const {
  if (form_ != nullptr) return {.x = {}, .rounded = norm.forward_rounded(x, *form_, workspace)};
  Tensor normed = workspace.take(DType::f32, x.shape());
  norm.forward(x, normed);
  return {.x = normed, .rounded = {}};
}

size_t LinearReaders::input_bytes(int64_t tokens) const {
  return form_ == nullptr || count_ < 2 ? 0 : ops::rounded_rows_bytes(device_, *form_, tokens);
}

// A planned weight may turn out to be of another form when it is loaded: room for both.
size_t LinearReaders::norm_input_bytes(int64_t tokens, int64_t channels) const {
  const size_t floats = Workspace::bytes_for(DType::f32, {tokens, channels});
  return form_ == nullptr ? floats : std::max(floats, ops::rounded_rows_bytes(device_, *form_, tokens));
}

}  // namespace pare
