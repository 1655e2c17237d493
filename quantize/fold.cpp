#include "quantize/fold.h"

#include <fmt/core.h>

#include <vector>

#include "engine/core/parallel.h"

namespace pare {
namespace {

const BlockConfig& shape_of(const BlockEdit& block) {
  return block.config().blocks[size_t(block.index())];
}

// matrix[:, j] *= scale[j]
void scale_columns(Tensor& matrix, std::span<const float> scale) {
  const int64_t in = matrix.size(1);
  float* data = matrix.mutable_data<float>();
  parallel_ranges(matrix.size(0), 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t j = 0; j < in; ++j) data[row * in + j] *= scale[size_t(j)];
  });
}

// Rows [first, first + scale.size()) of a matrix, or elements of a vector, divided by the scale.
void divide_rows(Tensor& values, int64_t first, std::span<const float> scale) {
  const int64_t in = values.shape().rank() == 2 ? values.size(1) : 1;
  float* data = values.mutable_data<float>() + first * in;
  for (size_t row = 0; row < scale.size(); ++row)
    for (int64_t j = 0; j < in; ++j) data[int64_t(row) * in + j] /= scale[row];
}

Status divide_tensor(BlockEdit& block, const TensorSpec* spec, int64_t first, std::span<const float> scale) {
  if (spec == nullptr) return {};
  PARE_TRY(Tensor values, block.values(*spec));
  divide_rows(values, first, scale);
  return block.replace(*spec, values, DType::f32);
}

Status divide_linear(BlockEdit& block, const TensorSpec& spec, int64_t first, std::span<const float> scale) {
  PARE_CHECK(divide_tensor(block, &spec, first, scale));
  return divide_tensor(block, block.bias_of(spec), first, scale);
}

// One scale per KV channel out of one per attention channel.
std::vector<float> kv_scale(const BlockConfig& shape, std::span<const float> scale) {
  const int64_t copies = shape.heads / shape.kv_heads;
  std::vector<float> result;
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t c = 0; c < shape.head_dim; ++c) {
      const float value = scale[size_t(head * copies * shape.head_dim + c)];
      for (int64_t copy = 1; copy < copies; ++copy)
        PARE_ASSERT(scale[size_t((head * copies + copy) * shape.head_dim + c)] == value,
                    "[fold] scales of KV head {} differ between its query heads", head);
      result.push_back(value);
    }
  }
  return result;
}

// Scales come from data: huge activations ask for scales that no weight can be multiplied by.
Status check_scale(const BlockEdit& block, Site site, std::span<const float> scale) {
  constexpr float kLargest = 1e30f;
  for (size_t j = 0; j < scale.size(); ++j) {
    if (scale[j] > 0.0f && scale[j] < kLargest) continue;
    return Error{.exit = Exit::numeric,
                 .rule = "NU17",
                 .path = block.source().path(),
                 .where = fmt::format("block {} {} channel {}", block.index(), site_name(site), j),
                 .what = "scale of a channel is out of range",
                 .got = fmt::format("{:g}", scale[j]),
                 .limit = fmt::format("{:g}", kLargest)};
  }
  return {};
}

Status divide_producer(BlockEdit& block, Site site, std::span<const float> scale) {
  switch (site) {
    case Site::attention_in:
      PARE_CHECK(divide_tensor(block, block.find(Role::input_norm), 0, scale));
      return divide_tensor(block, block.find(Role::input_norm_bias), 0, scale);
    case Site::mlp_in:
      PARE_CHECK(divide_tensor(block, block.find(Role::post_attention_norm), 0, scale));
      return divide_tensor(block, block.find(Role::post_attention_norm_bias), 0, scale);
    case Site::attention_out: {
      const BlockConfig& shape = shape_of(block);
      const std::vector<float> per_kv = kv_scale(shape, scale);
      if (const TensorSpec* value = block.find(Role::value)) return divide_linear(block, *value, 0, per_kv);
      const int64_t first = (shape.heads + shape.kv_heads) * shape.head_dim;  // rows q, k, v
      return divide_linear(block, *block.find(Role::qkv), first, per_kv);
    }
    default:
      return divide_linear(block, *block.find(Role::up), 0, scale);
  }
}

}  // namespace

bool can_fold(const BlockEdit& block, Site site, std::string* reason) {
  const ModelConfig& config = block.config();
  std::string why;
  if (site == Site::mlp_out && !config.gated_mlp && config.activation != Activation::relu)
    why = "the activation between is not homogeneous";
  if (site == Site::mlp_out && block.is_mixture()) why = "every expert has inputs of its own";
  if (config.post_sublayer_norms && site == Site::attention_in) why = "the norm also feeds the residual";
  if (reason != nullptr) *reason = why;
  return why.empty();
}

void share_kv(const BlockConfig& shape, std::span<float> values) {
  const int64_t copies = shape.heads / shape.kv_heads, dim = shape.head_dim;
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t c = 0; c < dim; ++c) {
      double sum = 0.0;
      for (int64_t copy = 0; copy < copies; ++copy)
        sum += double(values[size_t((head * copies + copy) * dim + c)]);
      const float mean = float(sum / double(copies));
      for (int64_t copy = 0; copy < copies; ++copy) values[size_t((head * copies + copy) * dim + c)] = mean;
    }
  }
}

Status fold_scale(BlockEdit& block, Site site, std::span<const float> scale) {
  PARE_ASSERT(can_fold(block, site), "[fold] {}", site_name(site));
  PARE_CHECK(check_scale(block, site, scale));
  PARE_CHECK(divide_producer(block, site, scale));
  for (const TensorSpec* linear : block.linears(site)) {
    PARE_TRY(Tensor weight, block.values(*linear));
    PARE_ASSERT(weight.size(1) == int64_t(scale.size()), "[fold] {} scales for {}", scale.size(),
                linear->name);
    scale_columns(weight, scale);
    PARE_CHECK(block.replace(*linear, weight, DType::f32));
  }
  // A router reads the same norm as its experts.
  const TensorSpec* router = site == Site::mlp_in ? block.find(Role::router) : nullptr;
  if (router == nullptr) return {};
  PARE_TRY(Tensor weight, block.values(*router));
  scale_columns(weight, scale);
  return block.replace(*router, weight, DType::f32);
}

}  // namespace pare
