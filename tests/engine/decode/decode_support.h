// tests/engine/decode/decode_support.h: memory of the GPU under test, and data for fused operations.
#pragma once

#include <string>
#include <vector>

#include "engine/core/random.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/decode_backend.h"
#include "tests/support/walk.h"

namespace pare::test {

// The GPU, with products in bf16; made and installed once.
Backend& gpu();
// The definition of every fused operation, over memory of the host.
DecodeBackend& definition();

// Values in memory of the GPU.
template <typename T>
class OnGpu {
 public:
  explicit OnGpu(const std::vector<T>& values) : count_(values.size()) {
    storage_ = checked(gpu().allocate(std::max<size_t>(count_, 1) * sizeof(T)));
    write(values);
  }
  void write(const std::vector<T>& values) {
    checked(gpu().upload(storage_->mutable_data(), values.data(), count_ * sizeof(T)));
  }
  T* data() const { return reinterpret_cast<T*>(storage_->mutable_data()); }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    checked(gpu().download(values.data(), storage_->data(), count_ * sizeof(T)));
    return values;
  }

 private:
  size_t count_;
  std::shared_ptr<Storage> storage_;
};

std::vector<float> random_floats(int64_t count, uint64_t seed, float low = -1.0f, float high = 1.0f);
std::vector<float> random_whole(int64_t count, uint64_t seed, int low = -4, int high = 4);

// A matrix twice: for the GPU, and for the definition.
struct TwinMatrix {
  DecodeMatrix here, there;
  std::vector<double> row_norms;  // of its outputs
  std::vector<std::shared_ptr<void>> owners;
};
// kind: "f32", "bf16", "f16", or the text of a scheme. Whole: small whole numbers, scales of 1.
TwinMatrix make_matrix(const std::string& kind, int64_t out, int64_t in, uint64_t seed, bool is_whole,
                       bool has_bias);

// Runs with threads and blocks of the emulator in another order; on a GPU as it comes.
void set_order(int order);

}  // namespace pare::test
