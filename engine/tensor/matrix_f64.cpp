#include "engine/tensor/matrix_f64.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "engine/core/assert.h"

// By their Fortran names; the lengths of character arguments come last, as gfortran passes them.
extern "C" {
void dgemm_(const char* turn_a, const char* turn_b, const int* m, const int* n, const int* k,
            const double* alpha, const double* a, const int* lda, const double* b, const int* ldb,
            const double* beta, double* c, const int* ldc, size_t length_a, size_t length_b);
void dgeqrf_(const int* m, const int* n, double* a, const int* lda, double* tau, double* work,
             const int* lwork, int* info);
void dorgqr_(const int* m, const int* n, const int* k, double* a, const int* lda, const double* tau,
             double* work, const int* lwork, int* info);
}

namespace pare {
namespace {

int extent(int64_t size) {
  PARE_ASSERT(size >= 0 && size <= std::numeric_limits<int>::max(), "[matrix_f64] extent {}", size);
  return int(size);
}

// out [m, n] = op(a) op(b). A row-major matrix is its transpose to BLAS: out^T = op(b)^T op(a)^T.
MatrixF64 multiply(const MatrixF64& a, bool is_a_turned, const MatrixF64& b, bool is_b_turned, int64_t m,
                   int64_t k, int64_t n) {
  PARE_ASSERT(int64_t(a.size()) == m * k && int64_t(b.size()) == k * n, "[matrix_f64] {} and {} for {} {} {}",
              a.size(), b.size(), m, k, n);
  MatrixF64 out(size_t(m * n), 0.0);
  if (out.empty() || k == 0) return out;
  const int rows = extent(n), columns = extent(m), inner = extent(k);
  const int lda = is_b_turned ? inner : rows, ldb = is_a_turned ? columns : inner;
  const double one = 1.0, zero = 0.0;
  dgemm_(is_b_turned ? "T" : "N", is_a_turned ? "T" : "N", &rows, &columns, &inner, &one, b.data(), &lda,
         a.data(), &ldb, &zero, out.data(), &rows, 1, 1);
  return out;
}

}  // namespace

MatrixF64 product_f64(const MatrixF64& a, const MatrixF64& b, int64_t m, int64_t k, int64_t n) {
  return multiply(a, false, b, false, m, k, n);
}

MatrixF64 product_tn_f64(const MatrixF64& a, const MatrixF64& b, int64_t m, int64_t k, int64_t n) {
  return multiply(a, true, b, false, m, k, n);
}

MatrixF64 product_nt_f64(const MatrixF64& a, const MatrixF64& b, int64_t m, int64_t k, int64_t n) {
  return multiply(a, false, b, true, m, k, n);
}

void orthonormalize_rows(MatrixF64& rows, int64_t count, int64_t length) {
  PARE_ASSERT(count <= length && int64_t(rows.size()) == count * length,
              "[matrix_f64] {} values for {} rows of {}", rows.size(), count, length);
  if (count == 0) return;
  // Rows here are columns there.
  const int m = extent(length), n = extent(count);
  std::vector<double> tau(static_cast<size_t>(n));
  double best_qr = 0.0, best_q = 0.0;
  int info = 0;
  const int ask = -1;
  dgeqrf_(&m, &n, rows.data(), &m, tau.data(), &best_qr, &ask, &info);
  dorgqr_(&m, &n, &n, rows.data(), &m, tau.data(), &best_q, &ask, &info);
  const int size = std::max(n, int(std::max(best_qr, best_q)));
  std::vector<double> work(static_cast<size_t>(size));
  dgeqrf_(&m, &n, rows.data(), &m, tau.data(), work.data(), &size, &info);
  PARE_ASSERT(info == 0, "[matrix_f64] dgeqrf says {}", info);
  dorgqr_(&m, &n, &n, rows.data(), &m, tau.data(), work.data(), &size, &info);
  PARE_ASSERT(info == 0, "[matrix_f64] dorgqr says {}", info);
}

void fix_sign(double* vector, int64_t length) {
  int64_t largest = 0;
  for (int64_t i = 1; i < length; ++i)
    if (std::abs(vector[i]) > std::abs(vector[largest])) largest = i;
  if (length == 0 || !(vector[largest] < 0.0)) return;
  for (int64_t i = 0; i < length; ++i) vector[i] = -vector[i];
}

}  // namespace pare
