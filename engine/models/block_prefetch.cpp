// Telling a device which weights come next.
#include <algorithm>

#include "engine/models/model.h"
#include "engine/tensor/backend.h"

namespace pare {
namespace {

// Whether a device gets the stored bytes as they are; weight.cpp decides it.
bool is_taken_as_stored(const StoredTensor& stored, const TensorSpec& spec) {
  const auto is_weight_type = [](DType dtype) {
    return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
  };
  if (spec.shape.rank() != 2 || stored.is_sparse()) return false;  // vectors become floats first
  if (stored.is_low_rank()) return stored.pattern.empty() && is_weight_type(stored.dtype);
  if (stored.is_quantized())
    return !stored.activation.has_value();  // repacked by the host where inputs are rounded
  return !spec.transposed && is_weight_type(stored.dtype);
}

}  // namespace

std::vector<HostRange> Model::block_ranges(int index) const {
  std::vector<HostRange> all;
  if (index < 0 || index >= int(config().block_count())) return all;
  for (const TensorSpec& spec : description_.tensors) {
    if (spec.block != index) continue;
    const StoredTensor* stored = source_->find(spec.name);
    if (stored == nullptr) continue;
    for (HostRange& range : source_->host_ranges(spec.name)) {
      range.is_uploaded = range.is_uploaded && is_taken_as_stored(*stored, spec);
      all.push_back(std::move(range));
    }
  }
  return all;
}

uint64_t Model::prefetch_bytes() const {
  uint64_t largest = 0;
  for (int index = 0; index < int(config().block_count()); ++index) {
    uint64_t bytes = 0;
    for (const HostRange& range : block_ranges(index)) bytes += range.bytes.size();
    largest = std::max(largest, bytes);
  }
  return largest;
}

void Model::prefetch_blocks(std::initializer_list<Model*> models, int index) {
  std::vector<HostRange> all;
  bool was_asked = false;
  Model* first = nullptr;
  for (Model* model : models) {
    if (model == nullptr) continue;
    if (first == nullptr) first = model;
    PARE_ASSERT(model->device_ == first->device_, "[model] blocks for {} and {}", first->device_.name(),
                model->device_.name());
    was_asked = was_asked || model->has_prefetched_;
    if (model->blocks_.size() > size_t(index) && model->block_loaded(index)) {
      model->has_prefetched_ = false;
      continue;
    }
    const std::vector<HostRange> ranges = model->block_ranges(index);
    model->has_prefetched_ = !ranges.empty();
    all.insert(all.end(), ranges.begin(), ranges.end());
  }
  if (first != nullptr && (was_asked || !all.empty())) backend_for(first->device_).prefetch(all);
}

void Model::prefetch_block(int index) {
  prefetch_blocks({this}, index);
}

void Model::forget_prefetched() {
  if (has_prefetched_) backend_for(device_).prefetch({});
  has_prefetched_ = false;
}

}  // namespace pare
