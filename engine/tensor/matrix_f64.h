// engine/tensor/matrix_f64.h: products and bases of matrices in double, for factorizations. Row-major, on one
// thread, by the BLAS that cholesky.h names; so the bytes do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

namespace pare {

using MatrixF64 = std::vector<double>;  // [rows, columns]; extents below 2^31

// a [m, k] times b [k, n].
MatrixF64 product_f64(const MatrixF64& a, const MatrixF64& b, int64_t m, int64_t k, int64_t n);
// a^T b of a [k, m] and b [k, n].
MatrixF64 product_tn_f64(const MatrixF64& a, const MatrixF64& b, int64_t m, int64_t k, int64_t n);
// a b^T of a [m, k] and b [n, k].
MatrixF64 product_nt_f64(const MatrixF64& a, const MatrixF64& b, int64_t m, int64_t k, int64_t n);

// Replaces the rows of a matrix [count, length], count <= length, by an orthonormal basis: row k spans with
// the rows before it what the old rows 0..k spanned (any direction where they depend on each other).
// Householder QR of the transpose.
void orthonormalize_rows(MatrixF64& rows, int64_t count, int64_t length);

// Multiplies a vector by -1 unless its component of largest magnitude (the first such) is positive.
void fix_sign(double* vector, int64_t length);

}  // namespace pare
