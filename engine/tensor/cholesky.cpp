#include "engine/tensor/cholesky.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>

#include "engine/core/assert.h"

extern "C" {
char* openblas_get_config();
char* openblas_get_corename();
}

namespace pare {

std::string factorization_library() {
  const std::string config = openblas_get_config();  // "OpenBLAS 0.3.21 NO_LAPACKE ..."
  const size_t version = config.find(' ', config.find(' ') + 1);
  return config.substr(0, version) + " " + openblas_get_corename();
}

std::optional<InverseFactor> inverse_cholesky(std::vector<double> matrix, int64_t n) {
  PARE_ASSERT(n > 0 && int64_t(matrix.size()) == n * n, "[cholesky] {} values for order {}", matrix.size(),
              n);
  // Reversing the order of rows and columns of a square matrix is reversing its buffer.
  std::reverse(matrix.begin(), matrix.end());
  Eigen::Map<Eigen::MatrixXd> factor(matrix.data(), n, n);
  const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>, Eigen::Upper> decomposition(factor);
  if (decomposition.info() != Eigen::Success) return std::nullopt;

  InverseFactor result;
  const double smallest = factor.diagonal().minCoeff();
  result.smallest_pivot = smallest * smallest;
  // Column-major and upper here is row-major and lower in our reading, so the inverse is L^-1.
  result.upper.assign(size_t(n * n), 0.0);
  Eigen::Map<Eigen::MatrixXd> inverse(result.upper.data(), n, n);
  inverse.setIdentity();
  factor.triangularView<Eigen::Upper>().solveInPlace(inverse);
  std::reverse(result.upper.begin(), result.upper.end());
  for (int64_t i = 0; i < n; ++i) {
    const double diagonal = result.upper[size_t(i * n + i)];
    if (!std::isfinite(diagonal) || diagonal <= 0.0) return std::nullopt;
  }
  return result;
}

bool divide_by_symmetric(std::vector<double> matrix, int64_t n, std::vector<double>& right, int64_t rows) {
  PARE_ASSERT(n > 0 && rows > 0 && int64_t(matrix.size()) == n * n && int64_t(right.size()) == rows * n,
              "[cholesky] {} and {} values for order {}", matrix.size(), right.size(), n);
  Eigen::Map<Eigen::MatrixXd> factor(matrix.data(), n, n);
  const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>> decomposition(factor);
  if (decomposition.info() != Eigen::Success) return false;
  // Row-major [rows, n] is column-major [n, rows], and A is its own transpose.
  Eigen::Map<Eigen::MatrixXd> columns(right.data(), n, rows);
  decomposition.solveInPlace(columns);
  return columns.allFinite();
}

}  // namespace pare
