#include "calibrate/activation_store.h"

#include <algorithm>
#include <utility>

#include "engine/tensor/transfer.h"

namespace pare {
namespace {

std::span<std::byte> bytes_of(const Tensor& tensor) {
  return {tensor.mutable_raw(), tensor.size_bytes()};
}

}  // namespace

Result<ActivationStore> ActivationStore::create(const std::vector<int64_t>& rows, int64_t channels,
                                                MemoryBudget& budget, Device device) {
  ActivationStore store;
  store.rows_ = rows;
  store.channels_ = channels;
  store.device_ = device;
  store.offsets_.assign(rows.size(), 0);
  int64_t most_rows = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const uint64_t bytes = uint64_t(rows[i]) * uint64_t(channels) * sizeof(float);
    // The first chunk that does not fit begins the next tier.
    const bool is_first_tier = store.resident_.size() == i && store.memory_bytes_ == 0;
    if (!device.is_host() && is_first_tier && bytes <= budget.device_left) {
      PARE_TRY(Tensor chunk, Tensor::allocate(DType::f32, {rows[i], channels}, device));
      store.resident_.push_back(std::move(chunk));
      budget.device_left -= bytes;
      store.device_bytes_ += bytes;
      continue;
    }
    if (store.resident_.size() == i && bytes <= budget.left) {
      const Device host = device.is_host() ? device : Device::cpu();
      PARE_TRY(Tensor chunk, Tensor::allocate(DType::f32, {rows[i], channels}, host));
      store.resident_.push_back(std::move(chunk));
      budget.left -= bytes;
      store.memory_bytes_ += bytes;
      continue;
    }
    store.offsets_[i] = store.spilled_bytes_;
    store.spilled_bytes_ += bytes;
    most_rows = std::max(most_rows, rows[i]);
  }
  if (store.spilled_bytes_ > 0) {
    PARE_TRY(SpillFile file, SpillFile::create(budget.spill_folder));
    store.file_ = std::move(file);
    if (!device.is_host()) {
      PARE_TRY(store.staging_, Tensor::allocate(DType::f32, {most_rows, channels}));
    }
  }
  return store;
}

bool ActivationStore::is_in_place(int64_t chunk) const {
  return size_t(chunk) < resident_.size() && resident_[size_t(chunk)].device() == device_;
}

Tensor ActivationStore::place(int64_t chunk, const Tensor& scratch) const {
  if (is_in_place(chunk)) return resident_[size_t(chunk)];
  return scratch.reshaped({scratch.numel() / channels_, channels_}).rows(0, rows(chunk));
}

Result<Tensor> ActivationStore::read(int64_t chunk, const Tensor& scratch) const {
  Tensor values = place(chunk, scratch);
  if (is_in_place(chunk)) return values;
  if (size_t(chunk) < resident_.size()) {
    PARE_CHECK(copy_into(resident_[size_t(chunk)], values));
    return values;
  }
  if (device_.is_host()) {
    PARE_CHECK(file_->read(offsets_[size_t(chunk)], bytes_of(values)));
    return values;
  }
  const Tensor staged = staging_.rows(0, rows(chunk));
  PARE_CHECK(file_->read(offsets_[size_t(chunk)], bytes_of(staged)));
  PARE_CHECK(copy_into(staged, values));
  return values;
}

Status ActivationStore::write(int64_t chunk, const Tensor& values) {
  PARE_ASSERT(values.size(0) == rows(chunk) && values.size(1) == channels_ && values.is_contiguous(),
              "[activation_store] {} for chunk {}", values.shape().text(), chunk);
  if (size_t(chunk) < resident_.size()) {
    const Tensor& target = resident_[size_t(chunk)];
    return target.raw() == values.raw() ? Status() : copy_into(values, target);
  }
  if (device_.is_host()) return file_->write(offsets_[size_t(chunk)], bytes_of(values));
  const Tensor staged = staging_.rows(0, rows(chunk));
  PARE_CHECK(copy_into(values, staged));
  return file_->write(offsets_[size_t(chunk)], bytes_of(staged));
}

}  // namespace pare
