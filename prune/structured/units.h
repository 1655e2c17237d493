// prune/structured/units.h: which slices of which tensors are cut together.
//
// A unit is a set of slices: all of them stay or all go. Every axis of a tensor is a row of units of one or
// several kinds (the rows of a fused qkv: query heads, then key heads, then value heads); the table in
// units.cpp says which. So cutting is one generic function, whatever the family.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/models/architecture.h"
#include "prune/structured/shape.h"
#include "prune/structured/structure.h"

namespace pare {

enum class Axis : uint8_t { out, in };  // of a vector: out

// Units of a kind that a block has. An expert is a row of the router, and tensors of its own that go as a
// whole.
enum class UnitKind : uint8_t { hidden, vocabulary, channel, query_head, kv_head, expert };

// Kept units, ascending.
struct BlockUnits {
  std::vector<int64_t> channels, query_heads, kv_heads;
  bool operator==(const BlockUnits&) const = default;
};
struct KeptUnits {
  std::vector<int64_t> layers, hidden, vocabulary;
  std::vector<BlockUnits> blocks;             // per layer of the model that is cut, dropped ones included
  std::vector<std::vector<int64_t>> experts;  // the same; empty for layers that are no mixtures
  bool operator==(const KeptUnits&) const = default;
};

// 0, 1, ..., count - 1.
std::vector<int64_t> all_units(int64_t count);
KeptUnits all_units(const ModelConfig& config);

// The sizes that are left. Asserts that all kept layers keep as many units.
ModelConfig cut_config(const ModelConfig& config, const KeptUnits& kept);

// Kinds of units along an axis of a tensor with this role, in order; empty: the axis is never cut. A bias has
// the rows of its owner: ask with the owner's role.
std::span<const UnitKind> units_along(Role role, Axis axis);

// Indices that stay along an axis of the tensor, ascending; nothing: all do.
std::optional<std::vector<int64_t>> kept_indices(const ModelDescription& model, const TensorSpec& spec,
                                                 Axis axis, const KeptUnits& kept);

// Exit 4 when the family's config cannot say the result, or its tensors are not mapped, or the model is
// quantized (CF12).
Status check_structures(const WeightSource& source, const ModelDescription& model,
                        std::span<const Structure> structures);

// Rows `first` and columns `second` of a tensor as stored (vector: rows); nothing: all. A new tensor of the
// same type; views are not kept. Exit 6.
Result<Tensor> sliced(const Tensor& tensor, const std::optional<std::vector<int64_t>>& first,
                      const std::optional<std::vector<int64_t>>& second);

}  // namespace pare
