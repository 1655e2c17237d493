// distill/private_gradients.h: the two random parts of differentially private SGD, and the sum of clipped
// gradients. Source: Abadi et al., "Deep learning with differential privacy" (2016).
#pragma once

#include <cstdint>
#include <vector>

#include "engine/models/parameter.h"

namespace pare {

// Which of `windows` windows are in step `step`: each with probability `rate`, independently; ascending.
std::vector<int64_t> sample_windows(uint64_t secret_key, int64_t step, int64_t windows, double rate);

// Gradients of single sequences, clipped and added up.
class PrivateSum {
 public:
  static Result<PrivateSum> make(const ParameterList& parameters);  // exit 6

  void clear();
  // sum += factor * gradient, of every parameter
  void add(double factor);
  const std::vector<Tensor>& sums() const { return sums_; }
  // gradient = (sum + deviation * noise) * scale, with noise N(0, 1) from the key, the step and the
  // parameter's name
  void finish(uint64_t secret_key, int64_t step, double deviation, double scale);

 private:
  ParameterList parameters_;
  std::vector<Tensor> sums_;
};

}  // namespace pare
