#include "engine/models/edited_source.h"

#include <utility>

#include "engine/core/assert.h"

namespace pare {

EditedSource::EditedSource(std::shared_ptr<const WeightSource> base)
    : base_(std::move(base)), tensors_(base_->tensors()) {
  for (size_t i = 0; i < tensors_.size(); ++i) positions_.emplace(tensors_[i].name, i);
}

void EditedSource::set(const std::string& name, WeightData data) {
  const auto position = positions_.find(name);
  PARE_ASSERT(position != positions_.end(), "[edited_source] {} is not in the model", name);
  tensors_[position->second] = data.described(name);
  edits_.insert_or_assign(name, std::move(data));
}

void EditedSource::discard(const std::string& name) {
  edits_.erase(name);
  const auto position = positions_.find(name);
  if (position != positions_.end()) tensors_[position->second] = *base_->find(name);
}

const StoredTensor* EditedSource::find(std::string_view name) const {
  const auto position = positions_.find(name);
  return position == positions_.end() ? nullptr : &tensors_[position->second];
}

Result<WeightData> EditedSource::load(std::string_view name) const {
  const auto edit = edits_.find(name);
  if (edit != edits_.end()) return edit->second;
  return base_->load(name);
}

}  // namespace pare
