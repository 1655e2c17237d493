// calibrate/activation_store.h: activations of all samples between two steps of a block: on the device that
// computes as far as its ceiling allows, then in host memory, the rest on disk.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/result.h"
#include "engine/core/spill_file.h"
#include "engine/tensor/tensor.h"

namespace pare {

// Bytes that stores may still take.
struct MemoryBudget {
  uint64_t left = 0;
  std::string spill_folder;  // where scratch files may lie
  uint64_t device_left = 0;  // of a GPU
};

// Chunks f32 [rows of the chunk, channels].
class ActivationStore {
 public:
  // As many chunks on the device and in memory as `budget` allows, from the first on; their bytes are taken
  // from it. Exit 5, 6.
  static Result<ActivationStore> create(const std::vector<int64_t>& rows, int64_t channels,
                                        MemoryBudget& budget, Device device = Device::cpu());

  // The chunk itself when it lies where it is computed, else its values in `scratch` (f32 on the device, at
  // least as many rows).
  Result<Tensor> read(int64_t chunk, const Tensor& scratch) const;
  // Where to compute the chunk: itself, or `scratch`. Contents undefined. write() makes it stay.
  Tensor place(int64_t chunk, const Tensor& scratch) const;
  Status write(int64_t chunk, const Tensor& values);

  int64_t chunks() const { return int64_t(rows_.size()); }
  int64_t channels() const { return channels_; }
  int64_t rows(int64_t chunk) const { return rows_[size_t(chunk)]; }
  uint64_t spilled_bytes() const { return spilled_bytes_; }
  uint64_t memory_bytes() const { return memory_bytes_; }  // of the host
  uint64_t device_bytes() const { return device_bytes_; }

 private:
  std::vector<int64_t> rows_;
  bool is_in_place(int64_t chunk) const;

  int64_t channels_ = 0;
  Device device_;
  std::vector<Tensor> resident_;   // of the first chunks: on the device, then in host memory
  std::vector<uint64_t> offsets_;  // of the others, in the file
  Tensor staging_;                 // between the file and a GPU: the largest chunk
  mutable std::optional<SpillFile> file_;
  uint64_t spilled_bytes_ = 0, memory_bytes_ = 0, device_bytes_ = 0;
};

}  // namespace pare
