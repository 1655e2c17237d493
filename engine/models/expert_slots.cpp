#include "engine/models/expert_slots.h"

#include <cstring>

#include "engine/core/assert.h"

namespace pare {

int64_t ExpertSlots::gather(const Tensor& x, int64_t begin, int64_t end, int expert, Tensor& out) const {
  PARE_ASSERT(x.size(1) == row_width() && out.size(1) == channels, "[expert_slots] x {}, out {}",
              x.shape().text(), out.shape().text());
  int64_t count = 0;
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t slot = 0; slot < per_token; ++slot) {
      float* from = at(x, row, slot);
      if (ExpertSlots::expert(from) != expert) continue;
      std::memcpy(out.mutable_data<float>() + count * channels, values(from),
                  size_t(channels) * sizeof(float));
      ++count;
    }
  }
  return count;
}

void ExpertSlots::shares(const Tensor& x, int expert, std::vector<float>& out) const {
  out.clear();
  for (int64_t row = 0; row < x.size(0); ++row) {
    for (int64_t slot = 0; slot < per_token; ++slot) {
      const float* from = at(x, row, slot);
      if (ExpertSlots::expert(from) == expert) out.push_back(share(from));
    }
  }
}

Tensor ExpertSlots::compact(const Tensor& x) const {
  PARE_ASSERT(x.size(1) == row_width() && x.is_contiguous(), "[expert_slots] x {}", x.shape().text());
  const int64_t slots = x.size(0) * per_token;
  float* data = x.mutable_data<float>();
  for (int64_t i = 0; i < slots; ++i)
    std::memmove(data + i * channels, data + i * slot_width() + 2, size_t(channels) * sizeof(float));
  return x.reshaped({x.numel()}).rows(0, slots * channels).reshaped({slots, channels});
}

}  // namespace pare
