#include "prune/structured/unit_gradients.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "prune/structured/units.h"

namespace pare {
namespace {

constexpr size_t kKindsOfBlocks = 5;  // all of UnitSum but hidden
constexpr int64_t kRowsPerItem = 16, kColumnsPerItem = 256;

Role role_of(const ModelDescription& model, const TensorSpec& spec) {
  return spec.role == Role::bias ? model.find(spec.owner)->role : spec.role;
}

bool has_unit(Role role, bool is_vector, std::initializer_list<UnitKind> wanted) {
  for (const Axis axis : {Axis::out, Axis::in}) {
    if (is_vector && axis == Axis::in) continue;
    for (const UnitKind kind : units_along(role, axis))
      if (std::find(wanted.begin(), wanted.end(), kind) != wanted.end()) return true;
  }
  return false;
}

// The kind of units that are structures of single blocks.
std::optional<UnitSum> sum_of(UnitKind kind) {
  switch (kind) {
    case UnitKind::channel:
      return UnitSum::channel;
    case UnitKind::query_head:
      return UnitSum::query_head;
    case UnitKind::kv_head:
      return UnitSum::kv_group;
    case UnitKind::expert:
      return UnitSum::expert;
    case UnitKind::hidden:
      return UnitSum::hidden;
    default:
      return std::nullopt;
  }
}

// What one weight adds, before |.| or 1/2.
double term(UnitScore score, float weight, float gradient) {
  const double product = double(weight) * double(gradient);
  return score == UnitScore::taylor ? product : product * product;
}

}  // namespace

UnitGradients::UnitGradients(const ModelDescription& model, std::span<const Structure> structures,
                             UnitScore score)
    : model_(model), structures_(structures.begin(), structures.end()), score_(score) {
  PARE_ASSERT(uses_gradients(score), "[structured] {} uses no gradients", unit_score_name(score));
  const auto take = [&](int64_t count) {
    ranges_.push_back({.begin = size_, .count = size_t(count)});
    size_ += size_t(count);
  };
  for (const BlockConfig& block : model.config.blocks)
    for (const int64_t count :
         {block.intermediate_size, block.heads, block.kv_heads, block.experts, int64_t{1}})
      take(count);
  take(model.config.hidden_size);
}

UnitGradients::Range UnitGradients::range(UnitSum kind, int block) const {
  if (kind == UnitSum::hidden) return ranges_.back();
  PARE_ASSERT(block >= 0 && block < int(model_.config.block_count()), "[structured] units of block {}",
              block);
  return ranges_[size_t(block) * kKindsOfBlocks + size_t(kind)];
}

bool UnitGradients::wants(const TensorSpec& spec) const {
  const Role role = role_of(model_, spec);
  const bool is_vector = spec.shape.rank() == 1;
  const bool is_inside = spec.block >= 0 && spec.block < int(model_.config.block_count());
  for (const Structure structure : structures_) {
    switch (structure) {
      case Structure::layers:
        if (is_inside) return true;
        break;
      case Structure::hidden:
        if (has_unit(role, is_vector, {UnitKind::hidden})) return true;
        break;
      case Structure::heads:
        if (has_unit(role, is_vector, {UnitKind::query_head, UnitKind::kv_head})) return true;
        break;
      case Structure::mlp:
        if (has_unit(role, is_vector, {UnitKind::channel})) return true;
        break;
      case Structure::experts:
        if (spec.expert >= 0 || role == Role::router) return true;
        break;
      case Structure::vocabulary:
        break;
    }
  }
  return false;
}

Status UnitGradients::start() {
  window_.assign(size_, 0.0);
  sums_.assign(size_, 0.0);
  return {};
}

// Sums over the rows (or columns) of a tensor go to the units along that axis.
void UnitGradients::add_axis(const TensorSpec& spec, bool is_rows, std::span<const double> sums) {
  const Role role = role_of(model_, spec);
  const ModelConfig& config = model_.config;
  size_t begin = 0;
  for (const UnitKind kind : units_along(role, is_rows ? Axis::out : Axis::in)) {
    const std::optional<UnitSum> sum = sum_of(kind);
    if (!sum) return;  // the vocabulary: alone along its axis
    const bool is_head = kind == UnitKind::query_head || kind == UnitKind::kv_head;
    const Range units = range(*sum, spec.block);
    const size_t width = is_head ? size_t(config.blocks[size_t(spec.block)].head_dim) : 1;
    PARE_ASSERT(begin + units.count * width <= sums.size(), "[structured] {} has {} sums", spec.name,
                sums.size());
    for (size_t i = 0; i < units.count * width; ++i) window_[units.begin + i / width] += sums[begin + i];
    if (kind == UnitKind::query_head) {  // a group goes with its queries
      const Range groups = range(UnitSum::kv_group, spec.block);
      const size_t in_group = units.count / groups.count * width;
      for (size_t i = 0; i < units.count * width; ++i)
        window_[groups.begin + i / in_group] += sums[begin + i];
    }
    begin += units.count * width;
  }
}

void UnitGradients::add_matrix(const TensorSpec& spec, const Parameter& parameter) {
  const bool is_vector = !parameter.is_matrix();
  const int64_t rows = parameter.value.size(0), columns = is_vector ? 1 : parameter.value.size(1);
  const float* w = parameter.value.data<float>();
  const float* g = parameter.gradient.data<float>();
  std::vector<double> row_sums(static_cast<size_t>(rows), 0.0);
  parallel_ranges(rows, kRowsPerItem, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      for (int64_t j = 0; j < columns; ++j)
        row_sums[size_t(i)] += term(score_, w[i * columns + j], g[i * columns + j]);
  });
  if (spec.block >= 0 && spec.block < int(model_.config.block_count())) {
    double total = 0.0;
    for (const double sum : row_sums) total += sum;
    window_[range(UnitSum::layer, spec.block).begin] += total;
    if (spec.expert >= 0) window_[range(UnitSum::expert, spec.block).begin + size_t(spec.expert)] += total;
  }
  if (spec.expert >= 0) return;  // its channels and dimensions are not cut
  add_axis(spec, /*is_rows=*/true, row_sums);
  if (is_vector || units_along(spec.role, Axis::in).empty()) return;
  std::vector<double> column_sums(static_cast<size_t>(columns), 0.0);
  parallel_ranges(columns, kColumnsPerItem, [&](int64_t first, int64_t last) {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = first; j < last; ++j)
        column_sums[size_t(j)] += term(score_, w[i * columns + j], g[i * columns + j]);
  });
  add_axis(spec, /*is_rows=*/false, column_sums);
}

void UnitGradients::add(const ParameterList& parameters) {
  std::fill(window_.begin(), window_.end(), 0.0);
  for (const auto& parameter : parameters) {
    const TensorSpec* spec = model_.find(parameter->name);
    PARE_ASSERT(spec != nullptr, "[structured] {} is unknown", parameter->name);
    add_matrix(*spec, *parameter);
  }
  for (size_t i = 0; i < size_; ++i)
    sums_[i] += score_ == UnitScore::taylor ? std::abs(window_[i]) : window_[i];
}

std::vector<std::span<std::byte>> UnitGradients::state() {
  return {std::as_writable_bytes(std::span(sums_))};
}

Status UnitGradients::finish(int64_t windows) {
  const double share = score_ == UnitScore::taylor ? 1.0 : 0.5;
  for (double& sum : sums_) {
    sum *= share / double(windows);
    if (!std::isfinite(sum))
      return Error{.exit = Exit::numeric,
                   .rule = "NU14",
                   .path = {},
                   .where = std::string(unit_score_name(score_)),
                   .what = "score of a unit is not finite",
                   .got = {},
                   .limit = {}};
  }
  return {};
}

std::vector<double> UnitGradients::read(const LossGradients& values, UnitSum kind, int block) const {
  const Range units = range(kind, block);
  std::vector<double> scores(units.count);
  PARE_ASSERT(values.values->bytes().size() == size_ * sizeof(double), "[structured] {} bytes of scores",
              values.values->bytes().size());
  if (!scores.empty())
    std::memcpy(scores.data(), values.values->bytes().data() + units.begin * sizeof(double),
                units.count * sizeof(double));
  return scores;
}

}  // namespace pare
