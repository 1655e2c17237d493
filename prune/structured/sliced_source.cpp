#include "prune/structured/sliced_source.h"

#include <utility>

#include "engine/core/assert.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "prune/structured/config_text.h"
#include "prune/structured/vocabulary_files.h"

namespace pare {
namespace {

// The tensors of the cut model under the prefix that the source uses.
std::vector<TensorSpec> cut_specs(const ModelDescription& model, const ModelConfig& config) {
  const Architecture& family = *model.architecture;
  for (const std::string_view prefix : family.prefixes) {
    if (family.describe(model.config, prefix).front().name == model.tensors.front().name)
      return family.describe(config, prefix);
  }
  return family.describe(config, family.prefixes.front());
}

// The tensor of the uncut model that this one comes from; nullptr when the model does without.
const TensorSpec* origin_of(const ModelDescription& model, const TensorSpec& spec, int block, int expert,
                            const std::string& owner) {
  for (const TensorSpec& candidate : model.tensors)
    if (candidate.block == block && candidate.role == spec.role && candidate.expert == expert &&
        candidate.owner == owner)
      return &candidate;
  return nullptr;
}

}  // namespace

Result<std::shared_ptr<const SlicedSource>> SlicedSource::create(std::shared_ptr<const WeightSource> base,
                                                                 const ModelDescription& model,
                                                                 KeptUnits kept) {
  std::shared_ptr<SlicedSource> source(new SlicedSource());
  source->base_ = std::move(base);
  source->kept_ = std::move(kept);
  const WeightSource& whole = *source->base_;
  const ModelConfig config = pare::cut_config(model.config, source->kept_);
  source->config_text_ = cut_config_text(whole, model, source->kept_);
  PARE_TRY(source->config_,
           parse_json(source->config_text_, whole.path(), {.max_bytes = limits::kConfigBytes}, "CF01"));
  source->assets_ = whole.assets();
  if (config.vocabulary_size != model.config.vocabulary_size) {
    PARE_TRY(source->assets_,
             cut_vocabulary_files(whole, new_ids(source->kept_.vocabulary, model.config.vocabulary_size)));
  }
  const int old_end = int(model.config.block_count()), new_end = int(config.block_count());
  std::map<std::string, std::string> renamed;  // new name -> old, for owners of biases
  for (const TensorSpec& spec : cut_specs(model, config)) {
    const int block = spec.block < 0          ? -1
                      : spec.block == new_end ? old_end
                                              : int(source->kept_.layers[size_t(spec.block)]);
    std::string owner;
    if (!spec.owner.empty()) {
      const auto known = renamed.find(spec.owner);
      if (known == renamed.end()) continue;  // its linear is not there either
      owner = known->second;
    }
    const int expert = spec.expert < 0 ? -1 : int(source->kept_.experts[size_t(block)][size_t(spec.expert)]);
    const TensorSpec* from = origin_of(model, spec, block, expert, owner);
    if (from == nullptr) continue;  // not required
    renamed[spec.name] = from->name;
    PARE_CHECK(source->add(model, *from, spec));
  }
  return std::shared_ptr<const SlicedSource>(std::move(source));
}

Status SlicedSource::add(const ModelDescription& model, const TensorSpec& from, const TensorSpec& to) {
  const StoredTensor* stored = base_->find(from.name);
  PARE_ASSERT(stored != nullptr && !stored->scheme, "[structured] {} is not a dense tensor", from.name);
  Part part{.base_name = from.name,
            .first = kept_indices(model, from, Axis::out, kept_),
            .second = kept_indices(model, from, Axis::in, kept_)};
  if (from.transposed) std::swap(part.first, part.second);
  StoredTensor cut = *stored;
  cut.name = to.name;
  cut.shape = to.shape;
  cut.bytes = uint64_t(to.shape.numel()) * uint64_t(dtype_bytes(stored->dtype));
  positions_.emplace(to.name, tensors_.size());
  tensors_.push_back(std::move(cut));
  parts_.push_back(std::move(part));
  return {};
}

size_t SlicedSource::position(std::string_view name) const {
  const auto found = positions_.find(name);
  PARE_ASSERT(found != positions_.end(), "[structured] {} is not in the model", name);
  return found->second;
}

const StoredTensor* SlicedSource::find(std::string_view name) const {
  const auto found = positions_.find(name);
  return found == positions_.end() ? nullptr : &tensors_[found->second];
}

Result<WeightData> SlicedSource::load(std::string_view name) const {
  const auto found = positions_.find(name);
  if (found == positions_.end()) {
    return Error{.exit = Exit::malformed,
                 .rule = "CF09",
                 .path = path(),
                 .where = quote(name),
                 .what = "no such tensor",
                 .got = {},
                 .limit = {}};
  }
  const Part& part = parts_[found->second];
  PARE_TRY(WeightData data, base_->load(part.base_name));
  if (!part.first && !part.second) return data;
  PARE_ASSERT(!data.is_quantized(), "[structured] {} is quantized", name);
  PARE_TRY(Tensor cut, sliced(data.dense(), part.first, part.second));
  base_->release(part.base_name);
  data.form = std::move(cut);
  return data;
}

std::vector<HostRange> SlicedSource::host_ranges(std::string_view name) const {
  const auto found = positions_.find(name);
  if (found == positions_.end()) return {};
  const Part& part = parts_[found->second];
  std::vector<HostRange> ranges = base_->host_ranges(part.base_name);
  // a slice is a copy
  if (part.first || part.second)
    for (HostRange& range : ranges) range.is_uploaded = false;
  return ranges;
}

void SlicedSource::release(std::string_view name) const {
  const auto found = positions_.find(name);
  if (found != positions_.end()) base_->release(parts_[found->second].base_name);
}

}  // namespace pare
