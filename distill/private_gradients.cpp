#include "distill/private_gradients.h"

#include <array>
#include <cstring>

#include "engine/core/parallel.h"
#include "engine/core/random.h"

namespace pare {
namespace {

constexpr int64_t kElements = 65536;

}  // namespace

std::vector<int64_t> sample_windows(uint64_t secret_key, int64_t step, int64_t windows, double rate) {
  const Random random(secret_key, RandomPurpose::privacy_noise, "chosen windows");
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < windows; ++i) {
    // 53 bits: with the 24 of uniform() small rates would be rounded by more than what is accounted for.
    const std::array<uint32_t, 4> words = random.bits(uint64_t(i), uint32_t(step));
    const uint64_t bits = uint64_t(words[1]) << 32 | words[0];
    if (double(bits >> 11) * 0x1p-53 < rate) chosen.push_back(i);
  }
  return chosen;
}

Result<PrivateSum> PrivateSum::make(const ParameterList& parameters) {
  PrivateSum sum;
  sum.parameters_ = parameters;
  for (const auto& parameter : parameters) {
    PARE_TRY(Tensor zeros, Tensor::allocate(DType::f32, parameter->value.shape(), parameter->value.device()));
    sum.sums_.push_back(std::move(zeros));
  }
  return sum;
}

void PrivateSum::clear() {
  for (Tensor& sum : sums_) std::memset(sum.mutable_raw(), 0, sum.size_bytes());
}

void PrivateSum::add(double factor) {
  for (size_t i = 0; i < sums_.size(); ++i) {
    const float* gradient = parameters_[i]->gradient.data<float>();
    float* sum = sums_[i].mutable_data<float>();
    parallel_ranges(sums_[i].numel(), kElements, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) sum[k] += float(factor) * gradient[k];
    });
  }
}

void PrivateSum::finish(uint64_t secret_key, int64_t step, double deviation, double scale) {
  for (size_t i = 0; i < sums_.size(); ++i) {
    const Random random(secret_key, RandomPurpose::privacy_noise, parameters_[i]->name);
    const float* sum = sums_[i].data<float>();
    float* gradient = parameters_[i]->gradient.mutable_data<float>();
    parallel_ranges(sums_[i].numel(), kElements, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const double noise = deviation * double(random.normal(uint64_t(k), uint32_t(step)));
        gradient[k] = float((double(sum[k]) + noise) * scale);
      }
    });
  }
}

}  // namespace pare
