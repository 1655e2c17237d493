// calibrate/hessian.h: the second moment of a linear's input, made ready for error propagation.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"
#include "engine/tensor/tensor.h"

namespace pare {

struct HessianOptions {
  double damping = 0.01;  // share of the mean live diagonal that is added to the diagonal
  int max_retries = 5;    // each with ten times the damping (docs/bad-input.md, NU08)
  bool act_order = true;  // columns by falling diagonal; else in their natural order
};

// One attempt of the factorization.
struct DampingAttempt {
  double damping;         // share of the mean live diagonal
  double smallest_pivot;  // 0 when the matrix was not positive definite
};

struct HessianFactor {
  std::vector<int32_t> order;  // order[i]: the column that is rounded as number i
  Tensor upper;  // f32 [n, n] in that order: U with U^T U = (H + d m I)^-1; where the moment lies
  std::vector<int32_t> dead;             // columns whose input was never anything but zero
  std::vector<DampingAttempt> attempts;  // the last one succeeded, unless `failed`
  bool failed = false;                   // not positive definite with any damping tried
  bool all_dead = false;                 // no data: nothing to propagate

  double damping() const { return attempts.empty() ? 0.0 : attempts.back().damping; }
  int retries() const { return attempts.empty() ? 0 : int(attempts.size()) - 1; }
  // From a damping of the mean diagonal upwards the result is close to plain rounding.
  bool is_heavily_damped() const { return damping() >= 1.0; }
};

// Exit 7 (NU09) with `name` when f32 [n, n] holds a NaN or an infinity, a negative diagonal, or is not
// symmetric within 1e-6 of its largest entry.
Status check_moment(const Tensor& moment, std::string_view name);

// The diagonal of f32 [n, n], wherever it lies. Exit 6.
Result<std::vector<float>> moment_diagonal(const Tensor& moment);

// moment: f32 [n, n], any positive multiple of X^T X; one on a GPU is factored there. Exit 7 (NU09) as
// check_moment(). Source: Frantar et al., "GPTQ" (2023); the schedule of damping is docs/methods.md.
Result<HessianFactor> factor_hessian(const Tensor& moment, const HessianOptions& options,
                                     std::string_view name);

}  // namespace pare
