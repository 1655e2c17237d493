#include "calibrate/activation_store.h"

#include <cstring>
#include <utility>

namespace pare {
namespace {

std::span<std::byte> bytes_of(const Tensor& tensor) {
  return {tensor.mutable_raw(), tensor.size_bytes()};
}

}  // namespace

Result<ActivationStore> ActivationStore::create(const std::vector<int64_t>& rows, int64_t channels,
                                                MemoryBudget& budget) {
  ActivationStore store;
  store.rows_ = rows;
  store.channels_ = channels;
  store.offsets_.assign(rows.size(), 0);
  for (size_t i = 0; i < rows.size(); ++i) {
    const uint64_t bytes = uint64_t(rows[i]) * uint64_t(channels) * sizeof(float);
    if (store.resident_.size() == i && bytes <= budget.left) {
      PARE_TRY(Tensor chunk, Tensor::allocate(DType::f32, {rows[i], channels}));
      store.resident_.push_back(std::move(chunk));
      budget.left -= bytes;
      store.memory_bytes_ += bytes;
      continue;
    }
    store.offsets_[i] = store.spilled_bytes_;
    store.spilled_bytes_ += bytes;
  }
  if (store.spilled_bytes_ > 0) {
    PARE_TRY(SpillFile file, SpillFile::create(budget.spill_folder));
    store.file_ = std::move(file);
  }
  return store;
}

Tensor ActivationStore::place(int64_t chunk, const Tensor& scratch) const {
  if (size_t(chunk) < resident_.size()) return resident_[size_t(chunk)];
  return scratch.reshaped({scratch.numel() / channels_, channels_}).rows(0, rows(chunk));
}

Result<Tensor> ActivationStore::read(int64_t chunk, const Tensor& scratch) const {
  Tensor values = place(chunk, scratch);
  if (size_t(chunk) >= resident_.size()) {
    PARE_CHECK(file_->read(offsets_[size_t(chunk)], bytes_of(values)));
  }
  return values;
}

Status ActivationStore::write(int64_t chunk, const Tensor& values) {
  PARE_ASSERT(values.size(0) == rows(chunk) && values.size(1) == channels_ && values.is_contiguous(),
              "[activation_store] {} for chunk {}", values.shape().text(), chunk);
  if (size_t(chunk) >= resident_.size()) return file_->write(offsets_[size_t(chunk)], bytes_of(values));
  Tensor& target = resident_[size_t(chunk)];
  if (target.raw() != values.raw()) std::memcpy(target.mutable_raw(), values.raw(), values.size_bytes());
  return {};
}

}  // namespace pare
