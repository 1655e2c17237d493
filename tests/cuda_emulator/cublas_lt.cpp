#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/tensor/float_formats.h"

struct cublasLtContext {};

namespace emulator {
namespace {

bool next_fails = false;

constexpr uint64_t kSeal = 0x6375626c6173u;
constexpr uint64_t kWorkspace = uint64_t{4} << 10;  // what the fake's algorithms claim to need

size_t width(cudaDataType type) {
  switch (type) {
    case CUDA_R_8I:
      return 1;
    case CUDA_R_16F:
    case CUDA_R_16BF:
      return 2;
    case CUDA_R_64F:
      return 8;
    default:
      return 4;
  }
}

double load(const void* data, cudaDataType type, int64_t index) {
  switch (type) {
    case CUDA_R_32F:
      return double(static_cast<const float*>(data)[index]);
    case CUDA_R_16BF:
      return double(pare::bf16_to_float(static_cast<const uint16_t*>(data)[index]));
    case CUDA_R_16F:
      return double(pare::f16_to_float(static_cast<const uint16_t*>(data)[index]));
    case CUDA_R_8I:
      return double(static_cast<const int8_t*>(data)[index]);
    default:
      return double(static_cast<const int32_t*>(data)[index]);
  }
}

// Element (row, column) of op(matrix), columns being contiguous.
int64_t place(const cublasLtMatrixLayoutOpaque_t& layout, bool transposed, int64_t row, int64_t column) {
  return transposed ? column + row * layout.leading : row + column * layout.leading;
}

bool is_aligned(const void* pointer, uint64_t alignment) {
  return reinterpret_cast<uintptr_t>(pointer) % alignment == 0;
}
uint64_t alignment_of(const void* pointer) {
  uint64_t alignment = 1;
  while (alignment < 256 && is_aligned(pointer, 2 * alignment)) alignment *= 2;
  return alignment;
}

// What the documentation allows of types, shapes and strides.
cublasStatus_t check(const cublasLtMatmulDescOpaque_t& operation, const cublasLtMatrixLayoutOpaque_t& a,
                     const cublasLtMatrixLayoutOpaque_t& b, const cublasLtMatrixLayoutOpaque_t& d) {
  const bool ta = operation.transpose_a != CUBLAS_OP_N, tb = operation.transpose_b != CUBLAS_OP_N;
  const uint64_t m = ta ? a.columns : a.rows, k = ta ? a.rows : a.columns;
  const uint64_t k_of_b = tb ? b.columns : b.rows, n = tb ? b.rows : b.columns;
  if (m != d.rows || n != d.columns || k != k_of_b) return CUBLAS_STATUS_INVALID_VALUE;
  for (const auto* layout : {&a, &b, &d})
    if (layout->leading < int64_t(layout->rows) || layout->rows == 0 || layout->columns == 0)
      return CUBLAS_STATUS_INVALID_VALUE;
  if (a.type != b.type) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (operation.compute == CUBLAS_COMPUTE_32I) {
    const bool fits = a.type == CUDA_R_8I && d.type == CUDA_R_32I && operation.scale == CUDA_R_32I && ta &&
                      !tb && a.leading % 4 == 0 && b.leading % 4 == 0 &&
                      operation.epilogue == CUBLASLT_EPILOGUE_DEFAULT;
    return fits ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const bool fits = (a.type == CUDA_R_32F || a.type == CUDA_R_16BF || a.type == CUDA_R_16F) &&
                    d.type == CUDA_R_32F && operation.scale == CUDA_R_32F;
  return fits ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

struct Job {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a_layout, b_layout, d_layout;
  const void *a, *b;
  void* d;
  double alpha, beta;
};

// d = alpha op(a) op(b) + beta d + bias, with the sum in float (or int32) from k = 0 on
void multiply(const Job& job) {
  const bool ta = job.operation.transpose_a != CUBLAS_OP_N, tb = job.operation.transpose_b != CUBLAS_OP_N;
  const int64_t m = int64_t(job.d_layout.rows), n = int64_t(job.d_layout.columns);
  const int64_t k = int64_t(ta ? job.a_layout.rows : job.a_layout.columns);
  std::vector<double> row(static_cast<size_t>(k));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t l = 0; l < k; ++l)
      row[size_t(l)] = load(job.a, job.a_layout.type, place(job.a_layout, ta, i, l));
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0.0;
      for (int64_t l = 0; l < k; ++l)
        sum += row[size_t(l)] * load(job.b, job.b_layout.type, place(job.b_layout, tb, l, j));
      const int64_t at = place(job.d_layout, false, i, j);
      double value = job.alpha * sum;
      if (job.beta != 0.0) value += job.beta * load(job.d, job.d_layout.type, at);
      if (job.operation.epilogue == CUBLASLT_EPILOGUE_BIAS)
        value += double(static_cast<const float*>(job.operation.bias)[i]);
      if (job.d_layout.type == CUDA_R_32I) {
        static_cast<int32_t*>(job.d)[at] = int32_t(value);
      } else {
        static_cast<float*>(job.d)[at] = float(value);
      }
    }
  }
}

template <typename T>
cublasStatus_t take(T& member, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&member, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

void fail_next_library_call() {
  next_fails = true;
}
bool takes_library_failure() {
  return std::exchange(next_fails, false);
}

}  // namespace emulator

using namespace emulator;  // NOLINT: the functions below are those of the C interface

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() {
  return 130000;
}
const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
  *layout = new cublasLtMatrixLayoutOpaque_t{type, rows, columns, leading};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  *operation = new cublasLtMatmulDescOpaque_t{
      compute, scale, CUBLAS_OP_N, CUBLAS_OP_N, -1, CUBLASLT_EPILOGUE_DEFAULT, nullptr};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  delete operation;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return take(operation->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return take(operation->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return take(operation->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return take(operation->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return take(operation->bias_type, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t{0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return take(preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return take(preference->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return take(preference->alignments[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value,
                  bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

// The first candidate never fits (its state says so), the second wants more workspace than there is when it
// can: a caller that takes what comes first fails.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  *count = 0;
  if (wanted <= 0) return CUBLAS_STATUS_INVALID_VALUE;
  if (const cublasStatus_t status = check(*operation, *a, *b, *d); status != CUBLAS_STATUS_SUCCESS)
    return status;
  // splits that add in place or in the output's type are not what pare may allow
  if ((preference->reductions & CUBLASLT_REDUCTION_SCHEME_INPLACE) != 0) return CUBLAS_STATUS_INVALID_VALUE;
  cublasLtMatmulAlgo_t algorithm{};
  algorithm.data[0] = std::min(preference->workspace, kWorkspace);
  for (int i = 0; i < 4; ++i) algorithm.data[1 + i] = preference->alignments[i];
  algorithm.data[5] = operation->epilogue == CUBLASLT_EPILOGUE_BIAS ? alignment_of(operation->bias) : 1;
  algorithm.data[6] = kSeal;
  if (wanted > 1) results[(*count)++] = {{}, 0, CUBLAS_STATUS_NOT_SUPPORTED, 0.0f, {}};
  results[(*count)++] = {algorithm, size_t(algorithm.data[0]), CUBLAS_STATUS_SUCCESS, 1.0f, {}};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  if (takes_library_failure()) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (const cublasStatus_t status = check(*operation, *a_layout, *b_layout, *d_layout);
      status != CUBLAS_STATUS_SUCCESS)
    return status;
  const auto& chosen = algorithm->data;
  if (chosen[6] != kSeal || c != d || c_layout->leading != d_layout->leading)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (chosen[0] > workspace_bytes || (chosen[0] > 0 && !is_aligned(workspace, 256)))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (!is_aligned(a, std::max<uint64_t>(chosen[1], width(a_layout->type))) ||
      !is_aligned(b, std::max<uint64_t>(chosen[2], width(b_layout->type))) || !is_aligned(c, chosen[3]) ||
      !is_aligned(d, std::max<uint64_t>(chosen[4], width(d_layout->type))))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (operation->epilogue == CUBLASLT_EPILOGUE_BIAS &&
      (operation->bias == nullptr || operation->bias_type != CUDA_R_32F ||
       !is_aligned(operation->bias, chosen[5])))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (operation->compute == CUBLAS_COMPUTE_32I && (!is_aligned(a, 4) || !is_aligned(b, 4)))
    return CUBLAS_STATUS_INVALID_VALUE;
  const Job job{.operation = *operation,
                .a_layout = *a_layout,
                .b_layout = *b_layout,
                .d_layout = *d_layout,
                .a = a,
                .b = b,
                .d = d,
                .alpha = load(alpha, operation->scale, 0),
                .beta = load(beta, operation->scale, 0)};
  submit(stream, [job, workspace, bytes = size_t(chosen[0])] {
    std::memset(workspace, 0xff, bytes);  // nobody may count on what is there
    multiply(job);
  });
  return CUBLAS_STATUS_SUCCESS;
}
