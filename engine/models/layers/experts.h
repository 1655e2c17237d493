// engine/models/layers/experts.h: the feed-forward half of a block that is a mixture of experts.
//   out += sum over the chosen experts e, by rising e, of share_e * mlp_e(x)
// The router gives every expert a probability (softmax in f32 over all experts); the per_token largest are
// chosen, the lower number first among equals, and their probabilities divided by their sum are the shares.
// Source: Jiang et al., "Mixtral of Experts" (2024).
#pragma once

#include <span>
#include <vector>

#include "engine/models/expert_slots.h"
#include "engine/models/layers/mlp.h"

namespace pare {

// Which experts the tokens of a batch chose, and with what shares.
struct Routing {
  Tensor experts;  // i32 [tokens, per_token], rising in a row
  Tensor shares;   // f32 [tokens, per_token]
  Tensor places;   // i32 [tokens * per_token]: token * per_token + slot, by expert, then by token
  Tensor starts;   // i32 [experts + 1]: where the places of an expert begin
};

// What a mixture keeps of a batch for its backward: rows of gate and up in the order of places.
struct ExpertActivations {
  Routing routing;
  MlpActivations mlp;  // f32 [tokens * per_token, intermediate]
};

struct Experts {
  ExpertSlots slots;         // experts per token, intermediate size
  Weight router;             // [experts, hidden]
  std::vector<Mlp> experts;  // gated

  // out [tokens, hidden] += experts(x); x must not alias out. Every expert is one product over its tokens;
  // one without tokens costs nothing. Same bytes for any thread count. On a GPU the scores are read back and
  // the host chooses. Exit 6.
  Status forward(const Tensor& x, Tensor& out, Workspace& workspace) const;
  // The same in two parts, on hosts, with the same bytes: the inputs of all downs as slots [tokens,
  // slots.row_width()], and what they add to out.
  void activate(const Tensor& x, Tensor& inner, Workspace& workspace) const;
  void project(const Tensor& inner, Tensor& out, Workspace& workspace) const;

  ExpertActivations take_activations(int64_t tokens, Workspace& kept) const;
  size_t activation_bytes(int64_t tokens) const;
  // out += experts(x)
  void forward_training(const Tensor& x, ExpertActivations& kept, Tensor& out, Workspace& workspace) const;
  // dx [tokens, hidden] is overwritten. The gradient of the shares goes through the softmax over the chosen
  // scores; the choice itself has none.
  void backward(const Tensor& x, const ExpertActivations& kept, const Tensor& dout, Tensor& dx,
                Workspace& workspace) const;
  size_t training_workspace_bytes(int64_t tokens) const;

  // Of forward(), whichever experts are chosen.
  size_t workspace_bytes(int64_t tokens) const;
  uint64_t size_bytes() const;

 private:
  Routing take_routing(int64_t tokens, Workspace& workspace) const;
  // Probabilities of all experts [tokens, experts], and what follows from them in host memory.
  Tensor probabilities(const Tensor& x, Workspace& workspace) const;
  void choose_experts(const Tensor& probabilities, Routing& routing) const;
  void route(const Tensor& x, Routing& routing, Workspace& workspace) const;
  void sort_places(Routing& routing) const;
  std::span<const int32_t> places_of(const Routing& routing, size_t expert) const;
  size_t routing_bytes(int64_t tokens) const;
  // of the products of any expert, beside its inputs and outputs
  size_t product_bytes(int64_t tokens) const;
  void claim_products(int64_t tokens, Workspace& workspace) const;
};

}  // namespace pare
