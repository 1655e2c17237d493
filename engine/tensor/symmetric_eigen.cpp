#include "engine/tensor/symmetric_eigen.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "engine/core/assert.h"

extern "C" void dsyevd_(const char* job, const char* triangle, const int* n, double* a, const int* lda,
                        double* w, double* work, const int* lwork, int* iwork, const int* liwork, int* info,
                        size_t length_job, size_t length_triangle);

namespace pare {

std::optional<SymmetricEigen> symmetric_eigen(MatrixF64 matrix, int64_t n) {
  PARE_ASSERT(n > 0 && n <= kMaxEigenOrder && int64_t(matrix.size()) == n * n,
              "[symmetric_eigen] {} values for order {}", matrix.size(), n);
  for (const double value : matrix)
    if (!std::isfinite(value)) return std::nullopt;
  SymmetricEigen result;
  result.values.resize(size_t(n));
  // The upper triangle in rows is the lower one in columns.
  const int order = int(n), ask = -1;
  double best_work = 0.0;
  int best_iwork = 0, info = 0;
  dsyevd_("V", "L", &order, matrix.data(), &order, result.values.data(), &best_work, &ask, &best_iwork, &ask,
          &info, 1, 1);
  PARE_ASSERT(info == 0, "[symmetric_eigen] dsyevd asked for its work space says {}", info);
  const int64_t least_work = n == 1 ? 1 : 1 + 6 * n + 2 * n * n, least_iwork = n == 1 ? 1 : 3 + 5 * n;
  const int work_size = int(std::max(least_work, int64_t(best_work)));
  const int iwork_size = int(std::max(least_iwork, int64_t(best_iwork)));
  std::vector<double> work(static_cast<size_t>(work_size));
  std::vector<int> iwork(static_cast<size_t>(iwork_size));
  dsyevd_("V", "L", &order, matrix.data(), &order, result.values.data(), work.data(), &work_size,
          iwork.data(), &iwork_size, &info, 1, 1);
  PARE_ASSERT(info >= 0, "[symmetric_eigen] dsyevd says {}", info);
  if (info > 0) return std::nullopt;
  // Columns there are rows here; rising becomes falling.
  std::reverse(result.values.begin(), result.values.end());
  result.vectors = std::move(matrix);
  for (int64_t k = 0; k < n / 2; ++k)
    std::swap_ranges(result.vectors.begin() + k * n, result.vectors.begin() + (k + 1) * n,
                     result.vectors.begin() + (n - 1 - k) * n);
  for (int64_t k = 0; k < n; ++k) {
    double* vector = result.vectors.data() + k * n;
    for (int64_t i = 0; i < n; ++i)
      if (!std::isfinite(vector[i])) return std::nullopt;
    fix_sign(vector, n);
  }
  return result;
}

}  // namespace pare
