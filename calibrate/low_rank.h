// calibrate/low_rank.h: a matrix as two thin factors, chosen by what the linear's output loses.
//
// Of W [out, in] and the moment H = X^T X of its input: with u_k the eigenvectors of W H W^T by falling
// eigenvalue sigma_k^2, A = (u_1 .. u_r) and B = A^T W are the best factors of rank r,
//   ||X (W - A B)^T||^2 = sum over k > r of sigma_k^2,   ||X W^T||^2 = sum of all.
// Without H it is the plain singular value decomposition. Source: docs/methods.md "Low rank".
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/core/result.h"
#include "engine/tensor/low_rank_tensor.h"
#include "engine/tensor/matrix_f64.h"

namespace pare {

struct OutputComponents {
  std::vector<double> spectrum;  // sigma_k^2, falling: all min(out, in), or as many as were asked for
  double energy = 0.0;           // ||X W^T||^2 (||W||^2 without a moment)
  MatrixF64 directions;          // [spectrum.size(), out]: orthonormal rows u_k
  bool is_weighted = false;      // by a moment that is not all zero
  bool is_exact = true;          // else by subspace iteration: the true spectrum lies slightly above

  int64_t count() const { return int64_t(spectrum.size()); }
  // Share of the energy in the first `rank` components, and the relative output error without the others.
  double kept_energy(int64_t rank) const;
  double relative_error(int64_t rank) const;
};

struct ComponentOptions {
  std::optional<int64_t> rank;  // components behind it are not needed
  int64_t exact_order = 1024;   // min(out, in) up to which everything is exact
  int64_t oversample = 16;      // of the subspace iteration beyond that, used when `rank` is small
  int iterations = 2;
  uint64_t seed = 0;  // of its start; the stream is named after the matrix
};

// weight: f32 [out, in]; moment: f32 [in, in], any positive multiple of X^T X, or undefined. In double, on
// one thread: the same bytes for any number of threads. Time O(min^2 max), with a moment also O(in^2 out).
//   exit 7: NU01, NU02, NU09 for values or a moment that are not finite or no moment; the solver gave up
//   exit 4: min(out, in) beyond kMaxEigenOrder without a rank
Result<OutputComponents> output_components(const Tensor& weight, const Tensor& moment,
                                           const ComponentOptions& options, std::string_view name);

// A B of the first `rank` components as factors of type f32, bf16 or f16; the columns of A and the rows of B
// have equal norms. weight: as above. Exit 7 (NU03) where a factor does not fit its type.
Result<LowRankTensor> factors_of(const Tensor& weight, const OutputComponents& components, int64_t rank,
                                 DType dtype, std::string_view name);

// Both in one: the product of rank `rank` that is nearest to `weight` in the output.
Result<LowRankTensor> nearest_low_rank(const Tensor& weight, const Tensor& moment, int64_t rank, DType dtype,
                                       std::string_view name);

}  // namespace pare
