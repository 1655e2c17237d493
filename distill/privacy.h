// distill/privacy.h: what differentially private SGD spends, by Renyi differential privacy of the Gaussian
// mechanism with Poisson sampling.
//
// A step takes each example with probability q, clips its gradient to norm C and adds noise N(0, (sigma
// C)^2). Its Renyi divergence of whole order a is
//   e(a) = 1 / (a - 1) ln sum_{k=0..a} binom(a, k) (1 - q)^(a - k) q^k exp((k^2 - k) / (2 sigma^2)),
// steps add up, and epsilon(delta) = min over a in 2..256 of steps e(a) + ln(1 / delta) / (a - 1).
// Source: Abadi et al., "Deep learning with differential privacy" (2016); Mironov, "Renyi differential
// privacy" (2017); Mironov, Talwar, Zhang, "Renyi differential privacy of the sampled Gaussian mechanism"
// (2019).
//
// Neighbours are data sets that differ in one example. An example is a window of the training data: text that
// fills several windows is protected by less. Choice and noise are in private_gradients.h.
#pragma once

#include <cstdint>

#include "engine/core/result.h"

namespace pare {

struct PrivacyPlan {
  double sampling_rate = 0.0;     // q, in (0, 1]
  double noise_multiplier = 1.0;  // sigma, in [0.01, 10^4]
  double delta = 1e-5;            // in (0, 1)

  // Exit 2 (CL06) naming the option that is out of range.
  Status validate() const;
};

// e(a) of one step, a >= 2, to a relative error of about 1e-12 also where it is tiny.
double renyi_divergence(double sampling_rate, double noise_multiplier, int order);

struct PrivacySpent {
  double epsilon = 0.0;
  int order = 2;  // of the minimum
};

// After `steps` steps; 0 steps spend nothing. The plan is valid.
PrivacySpent privacy_spent(const PrivacyPlan& plan, int64_t steps);

// The smallest noise multiplier, to 1e-4 upwards, with which `steps` steps spend at most `epsilon`; plan's
// own is not looked at. Exit 2 (CL06) when 10^4 is not enough.
Result<double> noise_for_epsilon(const PrivacyPlan& plan, int64_t steps, double epsilon);

}  // namespace pare
