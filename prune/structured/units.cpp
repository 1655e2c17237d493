#include "prune/structured/units.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"

namespace pare {
namespace {

struct AxisUnits {
  Role role;
  Axis axis;
  std::array<UnitKind, 3> kinds;
  size_t count;
};

constexpr AxisUnits row(Role role, Axis axis, UnitKind kind) {
  return {role, axis, {kind}, 1};
}

// Norms, and the tables and linears that read or write the residual stream; then what lies inside a block.
constexpr std::array kTable = {
    row(Role::embedding, Axis::out, UnitKind::vocabulary),
    row(Role::embedding, Axis::in, UnitKind::hidden),
    row(Role::positions, Axis::in, UnitKind::hidden),
    row(Role::lm_head, Axis::out, UnitKind::vocabulary),
    row(Role::lm_head, Axis::in, UnitKind::hidden),
    row(Role::final_norm, Axis::out, UnitKind::hidden),
    row(Role::final_norm_bias, Axis::out, UnitKind::hidden),
    row(Role::input_norm, Axis::out, UnitKind::hidden),
    row(Role::input_norm_bias, Axis::out, UnitKind::hidden),
    row(Role::post_attention_norm, Axis::out, UnitKind::hidden),
    row(Role::post_attention_norm_bias, Axis::out, UnitKind::hidden),
    row(Role::query, Axis::out, UnitKind::query_head),
    row(Role::query, Axis::in, UnitKind::hidden),
    row(Role::key, Axis::out, UnitKind::kv_head),
    row(Role::key, Axis::in, UnitKind::hidden),
    row(Role::value, Axis::out, UnitKind::kv_head),
    row(Role::value, Axis::in, UnitKind::hidden),
    AxisUnits{Role::qkv, Axis::out, {UnitKind::query_head, UnitKind::kv_head, UnitKind::kv_head}, 3},
    row(Role::qkv, Axis::in, UnitKind::hidden),
    row(Role::attention_output, Axis::out, UnitKind::hidden),
    row(Role::attention_output, Axis::in, UnitKind::query_head),
    row(Role::gate, Axis::out, UnitKind::channel),
    row(Role::gate, Axis::in, UnitKind::hidden),
    row(Role::up, Axis::out, UnitKind::channel),
    row(Role::up, Axis::in, UnitKind::hidden),
    AxisUnits{Role::gate_up, Axis::out, {UnitKind::channel, UnitKind::channel}, 2},
    row(Role::gate_up, Axis::in, UnitKind::hidden),
    row(Role::down, Axis::out, UnitKind::hidden),
    row(Role::down, Axis::in, UnitKind::channel),
    row(Role::router, Axis::out, UnitKind::expert),
    row(Role::router, Axis::in, UnitKind::hidden),
};

// One kind along an axis: how many units, how wide each, and which stay.
struct Segment {
  int64_t units, width;
  const std::vector<int64_t>* kept;
};

Segment segment_of(const ModelConfig& config, int block, UnitKind kind, const KeptUnits& kept) {
  if (kind == UnitKind::hidden) return {config.hidden_size, 1, &kept.hidden};
  if (kind == UnitKind::vocabulary) return {config.vocabulary_size, 1, &kept.vocabulary};
  PARE_ASSERT(block >= 0 && block < int(kept.blocks.size()), "[structured] units of block {}", block);
  const BlockConfig& shape = config.blocks[size_t(block)];
  const BlockUnits& units = kept.blocks[size_t(block)];
  switch (kind) {
    case UnitKind::expert:
      return {shape.experts, 1, &kept.experts[size_t(block)]};
    case UnitKind::channel:
      return {shape.intermediate_size, 1, &units.channels};
    case UnitKind::query_head:
      return {shape.heads, shape.head_dim, &units.query_heads};
    default:
      return {shape.kv_heads, shape.head_dim, &units.kv_heads};
  }
}

// Families whose tensors and config are known to survive each cut.
struct FamilyRow {
  std::string_view model_type;
  bool has_head_size;  // config and code take a head_dim of their own
};
constexpr std::array kFamilies = {FamilyRow{"llama", true},   FamilyRow{"mistral", true},
                                  FamilyRow{"qwen2", true},   FamilyRow{"qwen3", true},
                                  FamilyRow{"mixtral", true}, FamilyRow{"gpt2", false}};

Error refused(const WeightSource& source, Structure structure, std::string what) {
  return Error{.exit = Exit::unsupported,
               .rule = "CF10",
               .path = source.path(),
               .where = "--structure " + std::string(structure_name(structure)),
               .what = std::move(what),
               .got = {},
               .limit = {}};
}

}  // namespace

std::vector<int64_t> all_units(int64_t count) {
  std::vector<int64_t> units(static_cast<size_t>(count));
  std::iota(units.begin(), units.end(), 0);
  return units;
}

KeptUnits all_units(const ModelConfig& config) {
  KeptUnits kept{.layers = all_units(config.block_count()),
                 .hidden = all_units(config.hidden_size),
                 .vocabulary = all_units(config.vocabulary_size),
                 .blocks = {},
                 .experts = {}};
  for (const BlockConfig& block : config.blocks) {
    kept.blocks.push_back(
        {all_units(block.intermediate_size), all_units(block.heads), all_units(block.kv_heads)});
    kept.experts.push_back(all_units(block.experts));
  }
  return kept;
}

ModelConfig cut_config(const ModelConfig& config, const KeptUnits& kept) {
  ModelConfig result = config;
  result.hidden_size = int64_t(kept.hidden.size());
  result.vocabulary_size = int64_t(kept.vocabulary.size());
  result.blocks.clear();
  for (const int64_t layer : kept.layers) {
    BlockConfig block = config.blocks[size_t(layer)];
    const BlockUnits& units = kept.blocks[size_t(layer)];
    const BlockUnits& first = kept.blocks[size_t(kept.layers.front())];
    PARE_ASSERT(units.channels.size() == first.channels.size() &&
                    units.query_heads.size() == first.query_heads.size() &&
                    units.kv_heads.size() == first.kv_heads.size() &&
                    kept.experts[size_t(layer)].size() == kept.experts[size_t(kept.layers.front())].size(),
                "[structured] layer {} keeps another number of units", layer);
    block.intermediate_size = int64_t(units.channels.size());
    block.heads = int64_t(units.query_heads.size());
    block.kv_heads = int64_t(units.kv_heads.size());
    block.experts = int64_t(kept.experts[size_t(layer)].size());
    result.blocks.push_back(block);
  }
  return result;
}

std::span<const UnitKind> units_along(Role role, Axis axis) {
  for (const AxisUnits& entry : kTable)
    if (entry.role == role && entry.axis == axis) return {entry.kinds.data(), entry.count};
  return {};
}

std::optional<std::vector<int64_t>> kept_indices(const ModelDescription& model, const TensorSpec& spec,
                                                 Axis axis, const KeptUnits& kept) {
  if (spec.shape.rank() == 1 && axis == Axis::in) return std::nullopt;
  Role role = spec.role;
  if (role == Role::bias) {
    const TensorSpec* owner = model.find(spec.owner);
    PARE_ASSERT(owner != nullptr, "[structured] bias {} without a linear", spec.name);
    role = owner->role;
  }
  bool is_cut = false;
  int64_t offset = 0;
  std::vector<int64_t> indices;
  for (const UnitKind kind : units_along(role, axis)) {
    const Segment segment = segment_of(model.config, spec.block, kind, kept);
    is_cut = is_cut || int64_t(segment.kept->size()) != segment.units;
    for (const int64_t unit : *segment.kept)
      for (int64_t i = 0; i < segment.width; ++i) indices.push_back(offset + unit * segment.width + i);
    offset += segment.units * segment.width;
  }
  if (!is_cut) return std::nullopt;
  return indices;
}

Status check_structures(const WeightSource& source, const ModelDescription& model,
                        std::span<const Structure> structures) {
  const std::string_view type = model.architecture->model_type;
  const auto family = std::find_if(kFamilies.begin(), kFamilies.end(),
                                   [&](const FamilyRow& candidate) { return candidate.model_type == type; });
  for (const Structure structure : structures) {
    if (family == kFamilies.end())
      return refused(source, structure,
                     fmt::format("{} is not mapped to units yet", model.architecture->name));
    const bool is_mixture = model.config.blocks.front().is_mixture();
    if (structure == Structure::experts && !is_mixture)
      return refused(source, structure, fmt::format("{} has no experts", model.architecture->name));
    const bool fits_mixtures = structure == Structure::experts || structure == Structure::layers ||
                               structure == Structure::vocabulary;
    if (is_mixture && !fits_mixtures)
      return refused(source, structure, "of a mixture only experts, layers and the vocabulary are cut yet");
    const bool is_sized = structure == Structure::heads || structure == Structure::hidden;
    if (is_sized && !family->has_head_size)
      return refused(source, structure,
                     "the config of this family has no head_dim: hidden size and heads cannot change alone");
    if (structure == Structure::layers && model.config.scale_by_inverse_layer)
      return refused(source, structure, "attention is scaled by the number of the layer, which would change");
  }
  if (const Json* nested = source.config().find("text_config"); nested != nullptr && !nested->is_null())
    return refused(source, structures.front(), "a config with text_config is not rewritten");
  for (const TensorSpec& spec : model.tensors) {
    const StoredTensor* stored = source.find(spec.name);
    if (stored == nullptr || stored->is_dense()) continue;
    return Error{.exit = Exit::unsupported,
                 .rule = "CF12",
                 .path = source.path(),
                 .where = quote(spec.name),
                 .what = stored->scheme ? "already quantized; prune the dense model and quantize afterwards"
                                        : "stored without its zeros or as factors; `pare export` to a folder first",
                 .got = stored->form_text(),
                 .limit = {}};
  }
  return {};
}

Result<Tensor> sliced(const Tensor& tensor, const std::optional<std::vector<int64_t>>& first,
                      const std::optional<std::vector<int64_t>>& second) {
  const int rank = tensor.shape().rank();
  PARE_ASSERT(rank == 1 || rank == 2, "[structured] a tensor of rank {} is not cut", rank);
  PARE_ASSERT(rank == 2 || !second, "[structured] a vector has no {}", "columns");
  PARE_ASSERT(tensor.is_contiguous(), "[structured] {} is a view", tensor.shape().text());
  if (!first && !second) return tensor;
  const int64_t columns = rank == 2 ? tensor.size(1) : 1;
  const int64_t rows_left = first ? int64_t(first->size()) : tensor.size(0);
  const int64_t columns_left = second ? int64_t(second->size()) : columns;
  const size_t item = size_t(dtype_bytes(tensor.dtype()));
  PARE_TRY(Tensor result,
           Tensor::allocate(tensor.dtype(), rank == 2 ? Shape{rows_left, columns_left} : Shape{rows_left}));
  const std::byte* from = tensor.raw();
  std::byte* to = result.mutable_raw();
  parallel_ranges(rows_left, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const std::byte* line = from + size_t((first ? (*first)[size_t(i)] : i) * columns) * item;
      std::byte* out = to + size_t(i * columns_left) * item;
      if (!second) {
        std::memcpy(out, line, size_t(columns) * item);
        continue;
      }
      for (int64_t j = 0; j < columns_left; ++j)
        std::memcpy(out + size_t(j) * item, line + size_t((*second)[size_t(j)]) * item, item);
    }
  });
  return result;
}

}  // namespace pare
