// calibrate/weight_gradients.h: moments of the gradients of single weights over the windows of
// loss_gradients.h.
//
//   mean      g   = mean over n of g_n
//   absolute        mean over n of |g_n|
//   square    F   = mean over n of g_n^2 (the diagonal of the empirical Fisher information, by windows)
//
// Sums and means in f32. A weight is the same in all windows, so that mean |w g_n| = |w| mean |g_n| and
// mean (w g_n)^2 = w^2 F: nothing with w in it has to be kept.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "calibrate/loss_gradients.h"

namespace pare {

enum class GradientMoment : uint8_t { mean, absolute, square };

class WeightGradients final : public GradientSums {
 public:
  // Matrices by name, each with all of `moments`.
  WeightGradients(const ModelDescription& model, const std::vector<std::string>& names,
                  std::vector<GradientMoment> moments);

  bool wants(const TensorSpec& spec) const override { return places_.contains(spec.name); }
  Status start() override;
  uint64_t size_bytes() const override;
  void add(const ParameterList& parameters) override;
  std::vector<std::span<std::byte>> state() override;
  Status finish(int64_t windows) override;

  // A moment of a matrix, f32 [out, in], a copy; `values` are finished ones of the same matrices and moments.
  // Asserts that the moment is kept.
  Result<Tensor> read(const LossGradients& values, std::string_view name, GradientMoment moment) const;

 private:
  struct Place {
    Shape shape;
    uint64_t offset = 0;  // of its first moment, in floats
    std::vector<Tensor> sums;
  };
  std::vector<GradientMoment> moments_;
  std::map<std::string, Place, std::less<>> places_;
  uint64_t floats_ = 0;
};

}  // namespace pare
