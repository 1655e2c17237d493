// prune/structured/repair.h: the closed-form correction of a linear that loses inputs.
//
// With H the second moment of the inputs, S what stays and P what goes, the weight on S that gives the
// closest outputs is W' = W_S + W_P H_PS (H_SS + d m I)^-1 (m: mean of the diagonal of H). Damping pulls
// towards plain dropping, so nothing changes when nothing goes. The sum of all single-column OBS updates is
// the same matrix.
#pragma once

#include <string>
#include <vector>

#include "engine/core/result.h"
#include "engine/tensor/tensor.h"

namespace pare {

struct RepairInput {
  const Tensor& weight;              // f32 [out, in]
  const Tensor& moment;              // f32 [in, in], sum of x x^T
  const std::vector<int64_t>& kept;  // ascending, not empty
  double damping = 0.01;
  // Sum of x over `tokens`: outputs may move by a constant that a bias takes up (the centred second moment).
  const std::vector<double>* sum = nullptr;
  int64_t tokens = 0;
  // sum of x_original x^T, f32 [wide, in], with the weight that read x_original, f32 [out, wide]: match the
  // original outputs instead of those of `weight`. Not together with `sum`.
  const Tensor* cross = nullptr;
  const Tensor* original_weight = nullptr;
};

struct Repaired {
  Tensor weight;         // f32 [out, kept]
  Tensor bias;           // f32 [out]: to be added to the bias; undefined without `sum`
  double damping = 0.0;  // that succeeded
  int retries = 0;       // each with ten times the damping
  bool has_data = true;  // false: all inputs were zero, columns were only dropped
};

// Exit 7 (NU08) with `where` when no damping makes the moment positive definite; 6.
Result<Repaired> repaired(const RepairInput& input, const std::string& where);

// What dropping alone moves the outputs by on average, f32 [out]: W_P times the mean of the inputs P.
Result<Tensor> mean_correction(const Tensor& weight, const std::vector<double>& sum, int64_t tokens,
                               const std::vector<int64_t>& kept);

// H - T mu mu^T, f32.
Result<Tensor> centred(const Tensor& moment, const std::vector<double>& sum, int64_t tokens);

// [out, kept] back to [out, in] with +0 in the other columns.
Result<Tensor> widened(const Tensor& weight, const std::vector<int64_t>& kept, int64_t in);

}  // namespace pare
