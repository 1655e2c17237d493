// engine/tensor/symmetric_eigen.h: eigenvalues and eigenvectors of a symmetric matrix, behind low rank and
// principal directions.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/tensor/matrix_f64.h"

namespace pare {

struct SymmetricEigen {
  std::vector<double> values;  // falling
  MatrixF64 vectors;           // [n, n]: row k belongs to values[k]; its largest component is positive
};

// The largest order: the work space of the solver is counted in 32 bits.
inline constexpr int64_t kMaxEigenOrder = 32'000;

// matrix: symmetric A [n, n], taken over; its upper triangle is read. A = sum of values[k] v_k v_k^T. Nothing
// when the solver does not converge or a number is not finite. LAPACK's divide and conquer (dsyevd) in double
// on one thread; equal eigenvalues keep the solver's order. Memory: 3 n^2 values beside the result's.
std::optional<SymmetricEigen> symmetric_eigen(MatrixF64 matrix, int64_t n);

}  // namespace pare
