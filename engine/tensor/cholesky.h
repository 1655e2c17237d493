// engine/tensor/cholesky.h: the factorization behind second-order methods (GPTQ, SparseGPT).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pare {

struct InverseFactor {
  std::vector<double> upper;    // [n, n] row-major U with U^T U = A^-1; zeros below the diagonal
  double smallest_pivot = 0.0;  // of the factorization of A
};

// matrix: symmetric A [n, n] row-major; taken over. With J the matrix that reverses the order, J A J = L L^T
// gives R = J L J (upper, A = R R^T) and U = R^-1. Nothing when A is not positive definite or the result is
// not finite. In double, on one thread, so the bytes do not depend on the number of threads.
std::optional<InverseFactor> inverse_cholesky(std::vector<double> matrix, int64_t n);

// right: [rows, n] row-major, becomes right * A^-1 for the symmetric A [n, n] (taken over). False when A is
// not positive definite or the result is not finite; `right` is then undefined. As above in double on one
// thread.
bool divide_by_symmetric(std::vector<double> matrix, int64_t n, std::vector<double>& right, int64_t rows);

// The library behind it and the kernels it chose, "OpenBLAS 0.3.21 SkylakeX"; part of the arithmetic profile.
std::string factorization_library();

}  // namespace pare
