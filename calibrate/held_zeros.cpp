#include "calibrate/held_zeros.h"

#include <vector>

#include "engine/tensor/sparse_detect.h"
#include "engine/tensor/sparse_tensor.h"

namespace pare {
namespace {

// Patterns that hardware or our kernels know, and the general one.
constexpr const char* kPatterns[] = {"2:4", "4:8", "unstructured", "block-1x8", "block-4x4", "block-16x16"};

Result<std::optional<SparseTensor>> smallest(const QuantizedTensor& codes, const Mask& kept,
                                             std::string_view pattern) {
  std::vector<std::string_view> candidates;
  if (!pattern.empty()) {
    candidates.push_back(pattern);
  } else {
    candidates.assign(std::begin(kPatterns), std::end(kPatterns));
  }
  std::optional<SparseTensor> best;
  for (const std::string_view candidate : candidates) {
    PARE_TRY(const SparsityPattern parsed, SparsityPattern::parse(candidate));
    PARE_TRY(const std::optional<Mask> mask, fitted_mask(kept, parsed));
    if (!mask) continue;
    PARE_TRY(std::optional<SparseTensor> sparse, smallest_form(codes, *mask, parsed));
    if (sparse && (!best || sparse->size_bytes() < best->size_bytes())) best = std::move(sparse);
  }
  return best;
}

}  // namespace

Result<std::optional<Mask>> held_zeros(const Tensor& weight) {
  PARE_TRY(Mask mask, nonzero_mask(weight));
  const int64_t weights = weight.numel(), zeros = weights - mask.kept_count();
  if (zeros * 10 < weights) return std::optional<Mask>();
  return std::optional(std::move(mask));
}

Result<WeightData> codes_with_zeros(QuantizedTensor codes, const Mask& kept, std::string_view pattern,
                                    int64_t* lost) {
  *lost = 0;
  PARE_TRY(std::optional<SparseTensor> sparse, smallest(codes, kept, pattern));
  if (!sparse && !pattern.empty()) {
    PARE_TRY(sparse, smallest(codes, kept, {}));
  }
  if (sparse) return WeightData{.form = std::make_shared<const SparseTensor>(*std::move(sparse))};
  PARE_TRY(const Tensor values, codes.dequantize());
  for (int64_t row = 0; row < kept.out(); ++row)
    for (int64_t column = 0; column < kept.in(); ++column)
      *lost += !kept.kept(row, column) && values.data<float>()[row * kept.in() + column] != 0.0f;
  return WeightData{.form = std::make_shared<const QuantizedTensor>(std::move(codes))};
}

}  // namespace pare
