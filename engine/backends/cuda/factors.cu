// Factors of second moments, by cuSOLVER. Everything here waits for the device and answers.
//
// cuSOLVER counts by columns, we by rows. A symmetric matrix is the same either way; what it calls the upper
// factor V (A = V^T V) lies where we read the lower one, L = V^T. Reversing the order of rows and columns is
// reversing the buffer. So with B the reversed A: V from potrf, V^-1 from trtri, read by rows L^-1 of B = L
// L^T, and reversed again U = J L^-1 J with U^T U = A^-1, as in engine/tensor/cholesky.h.
#include <bit>
#include <vector>

#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/kernel.h"
#include "engine/backends/cuda/libraries.h"
#include "engine/backends/cuda/memory_pool.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 32;
constexpr int kTileRows = 8;
using Word = unsigned long long;  // what atomicMin takes

// Found indices start at the largest word, the largest magnitude (bits of a float >= 0, ordered as it is) at
// 0.
struct FoundWords {
  Word not_finite, negative, asymmetric, largest;
};

__global__ void scan_kernel(const float* moment, int64_t n, FoundWords* found) {
  Word first = ~Word(0);
  unsigned largest = 0;
  const int64_t count = n * n;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kThreads) {
    const unsigned bits = __float_as_uint(moment[i]), magnitude = bits & 0x7fffffffu;
    if (magnitude >= 0x7f800000u) {
      first = Word(i) < first ? Word(i) : first;
    } else {
      largest = magnitude > largest ? magnitude : largest;
    }
    if (moment[i] < 0.0f && i % (n + 1) == 0) atomicMin(&found->negative, Word(i));
  }
  if (first != ~Word(0)) atomicMin(&found->not_finite, first);
  largest = block_max(largest, 0u);
  if (threadIdx.x == 0) atomicMax(&found->largest, Word(largest));
}

// Tile (x, y) below the diagonal beside its mirror.
__global__ void symmetry_kernel(const float* moment, int64_t n, double slack, FoundWords* found) {
  __shared__ float tile[kTile][kTile + 1];
  if (blockIdx.x > blockIdx.y) return;
  const int64_t row = int64_t(blockIdx.y) * kTile, column = int64_t(blockIdx.x) * kTile;
  for (int i = threadIdx.y; i < kTile; i += kTileRows) {
    const int64_t r = column + i, c = row + threadIdx.x;
    if (r < n && c < n) tile[i][threadIdx.x] = moment[r * n + c];
  }
  __syncthreads();
  const double limit = slack * double(__uint_as_float(unsigned(found->largest)));
  for (int i = threadIdx.y; i < kTile; i += kTileRows) {
    const int64_t r = row + i, c = column + threadIdx.x;
    if (c >= r || r >= n) continue;
    if (fabs(double(moment[r * n + c]) - double(tile[threadIdx.x][i])) > limit)
      atomicMin(&found->asymmetric, Word(r * n + c));
  }
}

// The damped matrix in its order, and that reversed.
template <typename T>
__global__ void damped_kernel(InverseFactorArgs a, T* matrix) {
  const int64_t count = a.n * a.n;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < count;
       at += int64_t(gridDim.x) * kThreads) {
    const int64_t i = at / a.n, j = at % a.n;
    const int64_t row = a.order != nullptr ? a.order[i] : i, column = a.order != nullptr ? a.order[j] : j;
    double value = double(a.moment[row * a.n + column]);
    if (i == j) {
      if (value == 0.0) value = a.dead_diagonal;
      value += a.added;
    }
    matrix[count - 1 - at] = T(value);
  }
}

// What is known of a diagonal: its smallest element, and whether all are finite and above 0.
struct DiagonalReport {
  double smallest;
  int is_positive;
};
template <typename T>
__global__ void diagonal_kernel(const T* matrix, int64_t n, DiagonalReport* report) {
  double smallest = INFINITY;
  int bad = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const double value = double(matrix[i * n + i]);
    if (!(value > 0.0) || value > 1.7976931348623157e308) bad = 1;
    smallest = value < smallest ? value : smallest;
  }
  smallest = -block_max(-smallest, -double(INFINITY));
  bad = block_max(bad, 0);
  if (threadIdx.x == 0) *report = {smallest, bad == 0};
}

template <typename T>
__global__ void upper_kernel(const T* inverse, int64_t n, float* upper) {
  const int64_t count = n * n;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < count;
       at += int64_t(gridDim.x) * kThreads)
    upper[at] = at / n <= at % n ? float(inverse[count - 1 - at]) : 0.0f;
}

__global__ void finite_kernel(const double* x, int64_t count, int* is_bad) {
  int bad = 0;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kThreads)
    if (!(fabs(x[i]) <= 1.7976931348623157e308)) bad = 1;
  if (bad != 0) atomicOr(is_bad, 1);
}

// A few blocks for each multiprocessor, that walk the elements.
LaunchShape walk(const Context& context, int64_t count) {
  const int64_t blocks = (count + kThreads - 1) / kThreads, most = int64_t(context.multiprocessors()) * 8;
  return {.grid = unsigned(blocks < most ? blocks : most), .block = kThreads};
}

template <typename T>
Result<T> fetch(Context& context, const void* from) {
  T value{};
  context.note(cudaMemcpyAsync(&value, from, sizeof value, cudaMemcpyDeviceToHost, context.stream()),
               "download");
  context.note(cudaStreamSynchronize(context.stream()), "an operation before");
  PARE_CHECK(context.take_error());
  return value;
}

// The upper factor in cuSOLVER's terms, in place. 0, or the order of the minor that is not positive definite.
Result<int> factor(Context& context, cudaDataType type, int64_t n, void* matrix, int* info) {
  PARE_CHECK(context.libraries().open_solver());
  const Cusolver& solver = context.libraries().solver();
  const cusolverDnHandle_t handle = context.libraries().solver_handle();
  const cusolverDnParams_t params = context.libraries().solver_params();
  size_t device_bytes = 0, host_bytes = 0;
  PARE_CHECK(library_status(solver.potrf_buffer(handle, params, CUBLAS_FILL_MODE_UPPER, n, type, matrix, n,
                                                type, &device_bytes, &host_bytes),
                            "cusolverDnXpotrf_bufferSize"));
  PARE_TRY(const std::shared_ptr<void> buffer, context.pool().allocate(device_bytes));
  std::vector<unsigned char> host(host_bytes);
  PARE_CHECK(library_status(solver.potrf(handle, params, CUBLAS_FILL_MODE_UPPER, n, type, matrix, n, type,
                                         buffer.get(), device_bytes, host.data(), host_bytes, info),
                            "cusolverDnXpotrf"));
  return fetch<int>(context, info);
}

Result<int> invert(Context& context, cudaDataType type, int64_t n, void* matrix, int* info) {
  const Cusolver& solver = context.libraries().solver();
  const cusolverDnHandle_t handle = context.libraries().solver_handle();
  size_t device_bytes = 0, host_bytes = 0;
  PARE_CHECK(library_status(solver.trtri_buffer(handle, CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n, type,
                                                matrix, n, &device_bytes, &host_bytes),
                            "cusolverDnXtrtri_bufferSize"));
  PARE_TRY(const std::shared_ptr<void> buffer, context.pool().allocate(device_bytes));
  std::vector<unsigned char> host(host_bytes);
  PARE_CHECK(
      library_status(solver.trtri(handle, CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, n, type, matrix, n,
                                  buffer.get(), device_bytes, host.data(), host_bytes, info),
                     "cusolverDnXtrtri"));
  return fetch<int>(context, info);
}

template <typename T>
Result<InverseFactorReport> inverse_factor_in(Context& context, const InverseFactorArgs& a,
                                              cudaDataType type) {
  const int64_t count = a.n * a.n;
  PARE_TRY(const std::shared_ptr<void> block, context.pool().allocate(size_t(count) * sizeof(T)));
  PARE_TRY(const std::shared_ptr<void> info, context.pool().allocate(sizeof(int)));
  PARE_TRY(const std::shared_ptr<void> report, context.pool().allocate(sizeof(DiagonalReport)));
  T* matrix = static_cast<T*>(block.get());
  context.launch("damped_moment", damped_kernel<T>, walk(context, count), a, matrix);
  PARE_TRY(const int minor, factor(context, type, a.n, matrix, static_cast<int*>(info.get())));
  if (minor != 0) return InverseFactorReport{};
  context.launch("diagonal", diagonal_kernel<T>, {.grid = 1, .block = kThreads}, matrix, a.n,
                 static_cast<DiagonalReport*>(report.get()));
  PARE_TRY(const DiagonalReport pivots, fetch<DiagonalReport>(context, report.get()));
  if (pivots.is_positive == 0) return InverseFactorReport{};
  PARE_TRY(const int zero, invert(context, type, a.n, matrix, static_cast<int*>(info.get())));
  if (zero != 0) return InverseFactorReport{};
  context.launch("diagonal", diagonal_kernel<T>, {.grid = 1, .block = kThreads}, matrix, a.n,
                 static_cast<DiagonalReport*>(report.get()));
  PARE_TRY(const DiagonalReport inverse, fetch<DiagonalReport>(context, report.get()));
  if (inverse.is_positive == 0) return InverseFactorReport{};
  context.launch("upper_factor", upper_kernel<T>, walk(context, count), matrix, a.n, a.upper);
  PARE_CHECK(context.take_error());
  return InverseFactorReport{.is_definite = true, .smallest_pivot = pivots.smallest * pivots.smallest};
}

}  // namespace

Result<MomentSummary> CudaStatistics::summarize_moment(const float* moment, int64_t n, double slack) {
  auto* found = context_.scratch_of<FoundWords>(1);
  if (found == nullptr) {
    PARE_CHECK(context_.take_error());
  }
  context_.note(cudaMemsetAsync(found, 0xff, sizeof(FoundWords), context_.stream()), "summarize_moment");
  context_.note(cudaMemsetAsync(&found->largest, 0, sizeof(Word), context_.stream()), "summarize_moment");
  const unsigned tiles = blocks_for(n, kTile);
  context_.launch("scan_moment", scan_kernel, walk(context_, n * n), moment, n, found);
  context_.launch("moment_symmetry", symmetry_kernel,
                  {.grid = dim3(tiles, tiles), .block = dim3(kTile, kTileRows)}, moment, n, slack, found);
  PARE_TRY(const FoundWords words, fetch<FoundWords>(context_, found));
  const auto index = [](Word word) { return word == ~Word(0) ? int64_t(-1) : int64_t(word); };
  MomentSummary summary;
  summary.first_not_finite = index(words.not_finite);
  if (summary.first_not_finite >= 0) return summary;
  summary.first_negative = index(words.negative);
  summary.first_asymmetric = index(words.asymmetric);
  const auto bits = static_cast<uint32_t>(words.largest);
  summary.largest = double(std::bit_cast<float>(bits));
  return summary;
}

Result<InverseFactorReport> CudaStatistics::inverse_factor(const InverseFactorArgs& a) {
  return a.in_double ? inverse_factor_in<double>(context_, a, CUDA_R_64F)
                     : inverse_factor_in<float>(context_, a, CUDA_R_32F);
}

// right^T = A^-1 right^T: rows of ours are columns of cuSOLVER's.
Result<bool> CudaStatistics::divide_by_symmetric(const DivideBySymmetricArgs& a) {
  PARE_TRY(const std::shared_ptr<void> flags, context_.pool().allocate(2 * sizeof(int)));
  int* info = static_cast<int*>(flags.get());
  int* is_bad = info + 1;
  PARE_TRY(const int minor, factor(context_, CUDA_R_64F, a.n, a.matrix, info));
  if (minor != 0) return false;
  Libraries& libraries = context_.libraries();
  PARE_CHECK(library_status(
      libraries.solver().potrs(libraries.solver_handle(), libraries.solver_params(), CUBLAS_FILL_MODE_UPPER,
                               a.n, a.rows, CUDA_R_64F, a.matrix, a.n, CUDA_R_64F, a.right, a.n, info),
      "cusolverDnXpotrs"));
  context_.note(cudaMemsetAsync(is_bad, 0, sizeof(int), context_.stream()), "divide_by_symmetric");
  context_.launch("finite", finite_kernel, walk(context_, a.rows * a.n), a.right, a.rows * a.n, is_bad);
  PARE_TRY(const int bad, fetch<int>(context_, is_bad));
  return bad == 0;
}

}  // namespace pare::cuda
