// A mixture of experts for training.
#include <algorithm>
#include <cstring>

#include "engine/models/layers/expert_rows.h"
#include "engine/models/layers/experts.h"
#include "engine/tensor/training_ops.h"

namespace pare {
namespace {

// The part of what was kept that belongs to the places [begin, begin + count).
MlpActivations rows_of(const MlpActivations& kept, int64_t begin, int64_t count) {
  MlpActivations rows;
  if (kept.gate.defined()) rows.gate = kept.gate.rows(begin, begin + count);
  rows.up = kept.up.rows(begin, begin + count);
  return rows;
}

// dx[places[i] / per_token] += rows[i]
void add_rows(const Tensor& rows, std::span<const int32_t> places, int64_t per_token, Tensor& dx) {
  const int64_t channels = dx.size(1);
  parallel_ranges(int64_t(places.size()), kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* from = rows.data<float>() + i * channels;
      float* to = dx.mutable_data<float>() + places[size_t(i)] / per_token * dx.row_stride();
      for (int64_t c = 0; c < channels; ++c) to[c] += from[c];
    }
  });
}

// dshares[place] = <inner, dinner>, and inner's gradient becomes that of the weighted sum: dinner *= share.
void weigh_rows(const Tensor& inner, std::span<const int32_t> places, const float* shares, Tensor& dinner,
                float* dshares) {
  const int64_t channels = inner.size(1);
  parallel_ranges(int64_t(places.size()), kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* x = inner.data<float>() + i * channels;
      float* dx = dinner.mutable_data<float>() + i * channels;
      const int64_t place = places[size_t(i)];
      double sum = 0.0;
      for (int64_t c = 0; c < channels; ++c) sum += double(x[c]) * double(dx[c]);
      for (int64_t c = 0; c < channels; ++c) dx[c] *= shares[place];
      dshares[place] = float(sum);
    }
  });
}

void scale_rows(std::span<const int32_t> places, const float* shares, Tensor& rows) {
  const int64_t channels = rows.size(1);
  for (size_t i = 0; i < places.size(); ++i) {
    float* row = rows.mutable_data<float>() + int64_t(i) * channels;
    for (int64_t c = 0; c < channels; ++c) row[c] *= shares[places[i]];
  }
}

}  // namespace

ExpertActivations Experts::take_activations(int64_t tokens, Workspace& kept) const {
  ExpertActivations activations;
  activations.routing = take_routing(tokens, kept);
  activations.mlp = experts.front().take_activations(tokens * slots.per_token, kept);
  return activations;
}

size_t Experts::activation_bytes(int64_t tokens) const {
  return routing_bytes(tokens) + experts.front().activation_bytes(tokens * slots.per_token);
}

void Experts::forward_training(const Tensor& x, ExpertActivations& kept, Tensor& out,
                               Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  const int64_t tokens = x.size(0);
  route(x, kept.routing, workspace);
  const Tensor all_rows = workspace.take(DType::f32, {tokens, x.size(1)});
  const Tensor all_inner = workspace.take(DType::f32, {tokens, slots.channels});
  for (size_t e = 0; e < experts.size(); ++e) {
    const std::span<const int32_t> places = places_of(kept.routing, e);
    if (places.empty()) continue;
    const int64_t count = int64_t(places.size()), begin = kept.routing.starts.data<int32_t>()[e];
    Tensor rows = all_rows.rows(0, count), inner = all_inner.rows(0, count);
    MlpActivations mlp = rows_of(kept.mlp, begin, count);
    gather_tokens(x, places, slots.per_token, rows);
    experts[e].gate.multiply(rows, /*accumulate=*/false, mlp.gate, workspace);
    experts[e].up.multiply(rows, /*accumulate=*/false, mlp.up, workspace);
    experts[e].activate_kept(mlp, inner);
    experts[e].down.multiply(inner, /*accumulate=*/false, rows, workspace);
    add_outputs(rows, places, kept.routing.shares.data<float>(), slots.per_token, out);
  }
}

void Experts::backward(const Tensor& x, const ExpertActivations& kept, const Tensor& dout, Tensor& dx,
                       Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  const int64_t tokens = x.size(0), per_token = slots.per_token;
  const float* shares = kept.routing.shares.data<float>();
  Tensor dshares = workspace.take(DType::f32, {tokens, per_token});
  std::memset(dshares.mutable_raw(), 0, dshares.size_bytes());
  for (int64_t row = 0; row < tokens; ++row)
    std::memset(dx.mutable_data<float>() + row * dx.row_stride(), 0, size_t(dx.size(1)) * sizeof(float));
  {
    const Workspace::Scope expert_scope(workspace);
    const Tensor all_rows = workspace.take(DType::f32, {tokens, x.size(1)});
    const Tensor all_douts = workspace.take(DType::f32, {tokens, x.size(1)});
    const Tensor all_inner = workspace.take(DType::f32, {tokens, slots.channels});
    const Tensor all_dinner = workspace.take(DType::f32, {tokens, slots.channels});
    for (size_t e = 0; e < experts.size(); ++e) {
      const std::span<const int32_t> places = places_of(kept.routing, e);
      if (places.empty()) continue;
      const int64_t count = int64_t(places.size()), begin = kept.routing.starts.data<int32_t>()[e];
      const Mlp& expert = experts[e];
      const MlpActivations mlp = rows_of(kept.mlp, begin, count);
      Tensor rows = all_rows.rows(0, count), douts = all_douts.rows(0, count);
      Tensor inner = all_inner.rows(0, count), dinner = all_dinner.rows(0, count);
      gather_tokens(x, places, per_token, rows);
      gather_tokens(dout, places, per_token, douts);
      expert.activate_kept(mlp, inner);
      // d(share * down(inner)): the gradient of inner without the share gives that of the share; the matrix
      // sees the weighted one.
      expert.down.backward_input(douts, dinner, workspace);
      weigh_rows(inner, places, shares, dinner, dshares.mutable_data<float>());
      scale_rows(places, shares, douts);
      expert.down.backward(inner, douts, /*accumulate=*/false, nullptr, workspace);
      expert.backward_inner(rows, mlp, inner, dinner, /*accumulate=*/false, douts, workspace);
      add_rows(douts, places, per_token, dx);
    }
  }
  // share = softmax over the chosen scores: dscore_e = share_e (dshare_e - sum_j share_j dshare_j)
  Tensor dscores = workspace.take(DType::f32, {tokens, router.out()});
  std::memset(dscores.mutable_raw(), 0, dscores.size_bytes());
  const int32_t* chosen = kept.routing.experts.data<int32_t>();
  for (int64_t row = 0; row < tokens; ++row) {
    const float* share = shares + row * per_token;
    const float* dshare = dshares.data<float>() + row * per_token;
    double sum = 0.0;
    for (int64_t slot = 0; slot < per_token; ++slot) sum += double(share[slot]) * double(dshare[slot]);
    for (int64_t slot = 0; slot < per_token; ++slot)
      dscores.mutable_data<float>()[row * router.out() + chosen[row * per_token + slot]] =
          float(double(share[slot]) * (double(dshare[slot]) - sum));
  }
  router.backward(x, dscores, /*accumulate=*/true, &dx, workspace);
}

size_t Experts::training_workspace_bytes(int64_t tokens) const {
  size_t products = std::max(router.workspace_bytes(tokens), router.backward_workspace_bytes(tokens));
  for (const Mlp& mlp : experts) {
    for (const Weight* weight : {&mlp.gate, &mlp.up, &mlp.down})
      products =
          std::max({products, weight->workspace_bytes(tokens), weight->backward_workspace_bytes(tokens)});
  }
  const size_t row = Workspace::bytes_for(DType::f32, {tokens, router.in()});
  const size_t inner = Workspace::bytes_for(DType::f32, {tokens, slots.channels});
  const size_t scores = Workspace::bytes_for(DType::f32, {tokens, router.out()});
  return Workspace::bytes_for(DType::f32, {tokens, slots.per_token}) + 2 * row + 2 * inner + scores +
         products;
}

}  // namespace pare
