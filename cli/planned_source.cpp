#include "cli/planned_source.h"

#include "engine/core/text.h"

namespace pare::cli {

PlannedSource::PlannedSource(std::shared_ptr<const WeightSource> base, std::vector<StoredTensor> tensors)
    : base_(std::move(base)), tensors_(std::move(tensors)) {
  for (size_t i = 0; i < tensors_.size(); ++i) positions_[tensors_[i].name] = i;
}

const StoredTensor* PlannedSource::find(std::string_view name) const {
  const auto found = positions_.find(name);
  return found == positions_.end() ? nullptr : &tensors_[found->second];
}

Result<WeightData> PlannedSource::load(std::string_view name) const {
  const StoredTensor *planned = find(name), *stored = base_->find(name);
  if (planned != nullptr && stored != nullptr && planned->scheme == stored->scheme &&
      planned->bytes == stored->bytes)
    return base_->load(name);
  return Error{.exit = Exit::unsupported,
               .rule = {},
               .path = path(),
               .where = quote(name),
               .what = "an earlier step of the recipe will write this tensor; it cannot be read for a plan",
               .got = {},
               .limit = {}};
}

}  // namespace pare::cli
