#include "engine/models/layers/experts.h"

#include <algorithm>
#include <cstring>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/models/layers/expert_rows.h"
#include "engine/tensor/ops.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

// Which experts a token takes: the largest probabilities, the first among equals. Any input gives experts
// that exist: a value that is no number is never larger.
void choose(const float* probabilities, int64_t count, int64_t per_token, int32_t* chosen, float* shares) {
  for (int64_t slot = 0; slot < per_token; ++slot) {
    int64_t best = -1;
    for (int64_t e = 0; e < count; ++e) {
      if (std::find(chosen, chosen + slot, int32_t(e)) != chosen + slot) continue;
      if (best < 0 || probabilities[e] > probabilities[best]) best = e;
    }
    chosen[slot] = int32_t(best);
  }
  std::sort(chosen, chosen + per_token);
  float sum = 0.0f;
  for (int64_t slot = 0; slot < per_token; ++slot) sum += probabilities[chosen[slot]];
  for (int64_t slot = 0; slot < per_token; ++slot) shares[slot] = probabilities[chosen[slot]] / sum;
}

}  // namespace

Routing Experts::take_routing(int64_t tokens, Workspace& workspace) const {
  const int64_t places = tokens * slots.per_token;
  return {.experts = workspace.take(DType::i32, {tokens, slots.per_token}),
          .shares = workspace.take(DType::f32, {tokens, slots.per_token}),
          .places = workspace.take(DType::i32, {places}),
          .starts = workspace.take(DType::i32, {int64_t(experts.size()) + 1})};
}

void Experts::route(const Tensor& x, Routing& routing, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  choose_experts(probabilities(x, workspace), routing);
}

Tensor Experts::probabilities(const Tensor& x, Workspace& workspace) const {
  Tensor scores = workspace.take(DType::f32, {x.size(0), router.out()});
  router.multiply(x, /*accumulate=*/false, scores, workspace);
  ops::softmax(scores, scores);
  return scores;
}

void Experts::choose_experts(const Tensor& scores, Routing& routing) const {
  const int64_t tokens = scores.size(0), count = scores.size(1), per_token = slots.per_token;
  const float* probabilities = scores.data<float>();
  int32_t* chosen = routing.experts.mutable_data<int32_t>();
  float* shares = routing.shares.mutable_data<float>();
  parallel_ranges(tokens, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      choose(probabilities + row * count, count, per_token, chosen + row * per_token,
             shares + row * per_token);
  });
  sort_places(routing);
}

void Experts::sort_places(Routing& routing) const {
  const int64_t count = routing.places.numel();
  const int32_t* chosen = routing.experts.data<int32_t>();
  int32_t* places = routing.places.mutable_data<int32_t>();
  const std::span<int32_t> starts(routing.starts.mutable_data<int32_t>(), experts.size() + 1);
  std::fill(starts.begin(), starts.end(), 0);
  for (int64_t i = 0; i < count; ++i) ++starts[size_t(chosen[i]) + 1];
  for (size_t e = 0; e < experts.size(); ++e) starts[e + 1] += starts[e];
  for (int64_t i = 0; i < count; ++i) places[starts[size_t(chosen[i])]++] = int32_t(i);
  // Filling moved every start to the next one.
  for (size_t e = experts.size(); e > 0; --e) starts[e] = starts[e - 1];
  starts[0] = 0;
}

std::span<const int32_t> Experts::places_of(const Routing& routing, size_t expert) const {
  const int32_t* starts = routing.starts.data<int32_t>();
  return {routing.places.data<int32_t>() + starts[expert], size_t(starts[expert + 1] - starts[expert])};
}

// Which expert gets how many tokens depends on the data. Claiming what the largest product could need makes a
// workspace that is too small fail on every input, not on an unlucky one.
void Experts::claim_products(int64_t tokens, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  const size_t bytes = product_bytes(tokens);
  if (bytes > 0) static_cast<void>(workspace.take(DType::u8, {int64_t(bytes)}));
}

Status Experts::forward(const Tensor& x, Tensor& out, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  const int64_t tokens = x.size(0), chosen = tokens * slots.per_token;
  Routing routing = take_routing(tokens, workspace);
  Routing seen = routing;  // in host memory
  if (x.device().is_host()) {
    route(x, seen, workspace);
  } else {
    const Workspace::Scope score_scope(workspace);
    PARE_TRY(const Tensor scores, moved(probabilities(x, workspace), Device::cpu()));
    PARE_TRY(seen.experts, Tensor::allocate(DType::i32, routing.experts.shape()));
    PARE_TRY(seen.shares, Tensor::allocate(DType::f32, routing.shares.shape()));
    PARE_TRY(seen.places, Tensor::allocate(DType::i32, routing.places.shape()));
    PARE_TRY(seen.starts, Tensor::allocate(DType::i32, routing.starts.shape()));
    choose_experts(scores, seen);
    PARE_CHECK(copy_into(seen.shares, routing.shares));
    PARE_CHECK(copy_into(seen.places, routing.places));
  }
  const Tensor all_rows = workspace.take(DType::f32, {tokens, x.size(1)});
  const Tensor all_inner = workspace.take(DType::f32, {tokens, slots.channels});
  claim_products(tokens, workspace);
  for (size_t e = 0; e < experts.size(); ++e) {
    const int64_t begin = seen.starts.data<int32_t>()[e], end = seen.starts.data<int32_t>()[e + 1];
    if (begin == end) continue;
    const Tensor places = routing.places.rows(begin, end);
    Tensor rows = all_rows.rows(0, end - begin), inner = all_inner.rows(0, end - begin);
    ops::gather_rows(x, places, slots.per_token, rows);
    experts[e].activate(rows, inner, workspace);
    experts[e].down.multiply(inner, /*accumulate=*/false, rows, workspace);
    ops::scatter_rows(rows, places, routing.shares.reshaped({chosen}), slots.per_token, out);
  }
  return {};
}

void Experts::activate(const Tensor& x, Tensor& inner, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  const int64_t tokens = x.size(0);
  PARE_ASSERT(inner.size(1) == slots.row_width(), "[experts] inner {}", inner.shape().text());
  Routing routing = take_routing(tokens, workspace);
  route(x, routing, workspace);
  const Tensor all_rows = workspace.take(DType::f32, {tokens, x.size(1)});
  const Tensor all_values = workspace.take(DType::f32, {tokens, slots.channels});
  claim_products(tokens, workspace);
  for (size_t e = 0; e < experts.size(); ++e) {
    const std::span<const int32_t> places = places_of(routing, e);
    if (places.empty()) continue;
    Tensor rows = all_rows.rows(0, int64_t(places.size())),
           values = all_values.rows(0, int64_t(places.size()));
    gather_tokens(x, places, slots.per_token, rows);
    experts[e].activate(rows, values, workspace);
    for (size_t i = 0; i < places.size(); ++i) {
      float* slot = slots.at(inner, places[i] / slots.per_token, places[i] % slots.per_token);
      slot[0] = float(e);
      slot[1] = routing.shares.data<float>()[places[i]];
      copy_row(values.data<float>() + int64_t(i) * slots.channels, ExpertSlots::values(slot), slots.channels);
    }
  }
}

void Experts::project(const Tensor& inner, Tensor& out, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  const int64_t tokens = out.size(0);
  PARE_ASSERT(inner.size(1) == slots.row_width(), "[experts] inner {}", inner.shape().text());
  Routing routing = take_routing(tokens, workspace);
  for (int64_t row = 0; row < tokens; ++row) {
    for (int64_t slot = 0; slot < slots.per_token; ++slot) {
      const float* from = slots.at(inner, row, slot);
      routing.experts.mutable_data<int32_t>()[row * slots.per_token + slot] = ExpertSlots::expert(from);
      routing.shares.mutable_data<float>()[row * slots.per_token + slot] = ExpertSlots::share(from);
    }
  }
  sort_places(routing);
  const Tensor all_rows = workspace.take(DType::f32, {tokens, out.size(1)});
  const Tensor all_values = workspace.take(DType::f32, {tokens, slots.channels});
  claim_products(tokens, workspace);
  for (size_t e = 0; e < experts.size(); ++e) {
    const std::span<const int32_t> places = places_of(routing, e);
    if (places.empty()) continue;
    Tensor rows = all_rows.rows(0, int64_t(places.size())),
           values = all_values.rows(0, int64_t(places.size()));
    for (size_t i = 0; i < places.size(); ++i) {
      float* slot = slots.at(inner, places[i] / slots.per_token, places[i] % slots.per_token);
      copy_row(ExpertSlots::values(slot), values.mutable_data<float>() + int64_t(i) * slots.channels,
               slots.channels);
    }
    experts[e].down.multiply(values, /*accumulate=*/false, rows, workspace);
    add_outputs(rows, places, routing.shares.data<float>(), slots.per_token, out);
  }
}

size_t Experts::product_bytes(int64_t tokens) const {
  const size_t inner = Workspace::bytes_for(DType::f32, {tokens, slots.channels});
  size_t bytes = 0;
  for (const Mlp& mlp : experts) bytes = std::max(bytes, mlp.workspace_bytes(tokens) - inner);
  return bytes;
}

size_t Experts::routing_bytes(int64_t tokens) const {
  return Workspace::bytes_for(DType::i32, {tokens, slots.per_token}) +
         Workspace::bytes_for(DType::f32, {tokens, slots.per_token}) +
         Workspace::bytes_for(DType::i32, {tokens * slots.per_token}) +
         Workspace::bytes_for(DType::i32, {int64_t(experts.size()) + 1});
}

size_t Experts::workspace_bytes(int64_t tokens) const {
  const size_t scores =
      Workspace::bytes_for(DType::f32, {tokens, router.out()}) + router.workspace_bytes(tokens);
  const size_t rows = Workspace::bytes_for(DType::f32, {tokens, router.in()}) +
                      Workspace::bytes_for(DType::f32, {tokens, slots.channels});
  return routing_bytes(tokens) + std::max(scores, rows + product_bytes(tokens));
}

uint64_t Experts::size_bytes() const {
  uint64_t bytes = router.size_bytes();
  for (const Mlp& mlp : experts) bytes += mlp.size_bytes();
  return bytes;
}

}  // namespace pare
