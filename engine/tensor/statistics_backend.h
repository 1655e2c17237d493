// engine/tensor/statistics_backend.h: statistics and solvers of calibration on one device.
//
// The rules of backend.h hold here too: arguments arrive checked, nothing is empty, pointers belong to the
// device, statistics are added to what is there, and sums are made in an order that depends on the shape
// alone. The functions that return a Result take memory from the device themselves, wait for the device, and
// hand its errors on. Each operation has a scalar definition in double in engine/backends/reference.
#pragma once

#include <cstdint>

#include "engine/tensor/backend.h"

namespace pare {

// moment[i, j] += scale * sum_t x[t, i] x[t, j] for j <= i; what lies above the diagonal is undefined until
// mirror_moment().
struct SecondMomentArgs {
  const float* x;  // [tokens, channels]
  float* moment;   // [channels, channels], contiguous
  int64_t tokens, channels, x_stride;
  float scale;
  void* workspace;  // second_moment_workspace_bytes(tokens, channels) bytes, 64-byte aligned
};

// The lower triangle to the upper one: exactly symmetric.
struct MirrorMomentArgs {
  float* moment;  // [channels, channels], contiguous
  int64_t channels;
};

// cross[i, j] += sum_t a[t, i] b[t, j], for two streams of the same tokens
struct CrossMomentArgs {
  const float* a;  // [tokens, rows]
  const float* b;  // [tokens, columns]
  float* cross;    // [rows, columns], contiguous
  int64_t tokens, rows, columns, a_stride, b_stride;
  void* workspace;  // cross_moment_workspace_bytes(tokens, rows, columns) bytes, 64-byte aligned
};

// Statistics of each channel over the tokens; any may be null. Sums are in double and in the order of the
// tokens, so neither the device nor the size of a batch changes a bit of them. With tokens_per_sample > 0 (a
// divisor of tokens), also of each sample:
//   sample_square_sum[c] += (mean over the tokens of the sample of |x|)^2
struct ColumnStatisticsArgs {
  const float* x;  // [tokens, channels]
  int64_t tokens, channels, x_stride;
  double* sum;                // [channels] += x
  double* abs_sum;            // [channels] += |x|
  double* square_sum;         // [channels] += x^2
  double* sample_square_sum;  // [channels]
  float* abs_max;             // [channels] = max(abs_max, |x|)
  float* low;                 // [channels] = min(low, x); start at +inf
  float* high;                // [channels] = max(high, x); start at -inf
  int64_t* first_bad;  // [1] = min(first_bad, token * channels + channel) of values that are not finite
  int64_t tokens_per_sample;
};

// What calibrate/hessian.h wants to know of a moment before it is factored. Indices are row * n + column.
struct MomentSummary {
  int64_t first_not_finite = -1;  // the smallest index; -1: none. The rest is undefined unless it is -1
  int64_t first_negative = -1;    // on the diagonal
  int64_t first_asymmetric =
      -1;                // below the diagonal: differs from its mirror by more than `slack` largest |h|
  double largest = 0.0;  // |h|
};

// upper: U with U^T U = A^-1, A[i, j] = moment[order[i], order[j]] + (i == j ? added : 0), where a zero on
// the diagonal of the moment counts as dead_diagonal. Zeros below the diagonal.
struct InverseFactorArgs {
  const float* moment;   // [n, n], contiguous, symmetric, finite
  const int32_t* order;  // [n] on the device, or null: as they come
  float* upper;          // [n, n], contiguous; may alias moment
  int64_t n;
  double dead_diagonal, added;
  bool in_double;  // else in float: half the memory, and pivots below 1e-6 of the largest are lost
};
struct InverseFactorReport {
  bool is_definite = false;  // else `upper` is undefined
  double smallest_pivot = 0.0;
};

// right = right * matrix^-1
struct DivideBySymmetricArgs {
  double* matrix;  // [n, n], contiguous, symmetric; overwritten
  double* right;   // [rows, n], contiguous
  int64_t n, rows;
};

class ColumnSolver;  // column_solver.h
class ScaleSearch;   // scale_search.h

class StatisticsBackend {
 public:
  virtual ~StatisticsBackend() = default;

  virtual size_t second_moment_workspace_bytes(int64_t tokens, int64_t channels) const = 0;
  virtual void second_moment(const SecondMomentArgs&) = 0;
  virtual void mirror_moment(const MirrorMomentArgs&) = 0;
  virtual size_t cross_moment_workspace_bytes(int64_t tokens, int64_t rows, int64_t columns) const = 0;
  virtual void cross_moment(const CrossMomentArgs&) = 0;
  virtual void column_statistics(const ColumnStatisticsArgs&) = 0;

  // slack: share of the largest |h|. Exit 6.
  virtual Result<MomentSummary> summarize_moment(const float* moment, int64_t n, double slack) = 0;
  // Exit 6.
  virtual Result<InverseFactorReport> inverse_factor(const InverseFactorArgs&) = 0;
  // False when the matrix is not positive definite or the result not finite; `right` is then undefined.
  // Exit 6.
  virtual Result<bool> divide_by_symmetric(const DivideBySymmetricArgs&) = 0;

  // The column loops of GPTQ and SparseGPT; null where the host's own code does them.
  virtual ColumnSolver* columns() { return nullptr; }
  // The losses of scales before rounding; null where the host's own code finds them.
  virtual ScaleSearch* scales() { return nullptr; }
};

}  // namespace pare
