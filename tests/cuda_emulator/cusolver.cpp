#include <cusolverDn.h>

#include <cmath>
#include <cstring>
#include <utility>

struct cusolverDnContext {
  cudaStream_t stream = nullptr;
};
struct cusolverDnParams {};

namespace emulator {
namespace {

constexpr size_t kDeviceBytes = 1024, kHostBytes = 64;  // what the fakes claim to need

// Element (row, column) of a matrix of which only `part` is stored, by columns. Positions of the other
// triangle are never touched.
template <typename T>
struct Triangle {
  T* data;
  int64_t leading;
  cublasFillMode_t part;
  // the lower factor, whichever triangle holds it
  T& lower(int64_t row, int64_t column) const {
    return part == CUBLAS_FILL_MODE_LOWER ? data[row + column * leading] : data[column + row * leading];
  }
};

// a = l l^T (in the upper triangle: u = l^T). The leading minor that is not positive, or 0.
template <typename T>
int factor(const Triangle<T>& a, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    T pivot = a.lower(j, j);
    for (int64_t k = 0; k < j; ++k) pivot -= a.lower(j, k) * a.lower(j, k);
    if (!(pivot > T(0))) return int(j) + 1;
    a.lower(j, j) = std::sqrt(pivot);
    for (int64_t i = j + 1; i < n; ++i) {
      T sum = a.lower(i, j);
      for (int64_t k = 0; k < j; ++k) sum -= a.lower(i, k) * a.lower(j, k);
      a.lower(i, j) = sum / a.lower(j, j);
    }
  }
  return 0;
}

template <typename T>
int invert(const Triangle<T>& a, int64_t n) {
  for (int64_t j = 0; j < n; ++j)
    if (a.lower(j, j) == T(0)) return int(j) + 1;
  for (int64_t j = 0; j < n; ++j) {
    a.lower(j, j) = T(1) / a.lower(j, j);
    for (int64_t i = j + 1; i < n; ++i) {
      T sum = T(0);
      for (int64_t k = j; k < i; ++k) sum -= a.lower(i, k) * a.lower(k, j);
      a.lower(i, j) = sum / a.lower(i, i);
    }
  }
  return 0;
}

// b = (l l^T)^-1 b, columns of b
template <typename T>
void solve(const Triangle<T>& a, int64_t n, T* b, int64_t leading, int64_t columns) {
  for (int64_t c = 0; c < columns; ++c) {
    T* x = b + c * leading;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = 0; k < i; ++k) x[i] -= a.lower(i, k) * x[k];
      x[i] /= a.lower(i, i);
    }
    for (int64_t i = n - 1; i >= 0; --i) {
      for (int64_t k = i + 1; k < n; ++k) x[i] -= a.lower(k, i) * x[k];
      x[i] /= a.lower(i, i);
    }
  }
}

bool is_known(cudaDataType type) {
  return type == CUDA_R_32F || type == CUDA_R_64F;
}
cusolverStatus_t check(cusolverDnHandle_t handle, cudaDataType type, int64_t n, int64_t leading) {
  if (takes_library_failure()) return CUSOLVER_STATUS_EXECUTION_FAILED;
  if (handle == nullptr) return CUSOLVER_STATUS_NOT_INITIALIZED;
  if (!is_known(type)) return CUSOLVER_STATUS_NOT_SUPPORTED;
  return n > 0 && leading >= n ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_INVALID_VALUE;
}
// Buffers are filled, so that nobody counts on what is there; a null or short one is refused.
cusolverStatus_t use(cudaStream_t stream, void* device, size_t device_bytes, void* host, size_t host_bytes) {
  if (device == nullptr || device_bytes < kDeviceBytes || host == nullptr || host_bytes < kHostBytes)
    return CUSOLVER_STATUS_INVALID_VALUE;
  std::memset(host, 0xff, kHostBytes);
  submit(stream, [device] { std::memset(device, 0xff, kDeviceBytes); });
  return CUSOLVER_STATUS_SUCCESS;
}

template <typename Function>
void with_type(cudaDataType type, void* a, int64_t leading, cublasFillMode_t part, Function&& function) {
  if (type == CUDA_R_64F) {
    function(Triangle<double>{static_cast<double*>(a), leading, part});
  } else {
    function(Triangle<float>{static_cast<float*>(a), leading, part});
  }
}

}  // namespace
}  // namespace emulator

using namespace emulator;  // NOLINT: the functions below are those of the C interface

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle) {
  *handle = new cusolverDnContext;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
  delete handle;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetDeterministicMode(cusolverDnHandle_t, cusolverDeterministicMode_t) {
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverGetVersion(int* version) {
  *version = 12000;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* params) {
  *params = new cusolverDnParams;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params) {
  delete params;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXpotrf_bufferSize(cusolverDnHandle_t, cusolverDnParams_t, cublasFillMode_t,
                                             int64_t, cudaDataType type, const void*, int64_t,
                                             cudaDataType compute, size_t* device_bytes, size_t* host_bytes) {
  if (!is_known(type) || compute != type) return CUSOLVER_STATUS_NOT_SUPPORTED;
  *device_bytes = kDeviceBytes;
  *host_bytes = kHostBytes;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXpotrf(cusolverDnHandle_t handle, cusolverDnParams_t, cublasFillMode_t part,
                                  int64_t n, cudaDataType type, void* a, int64_t leading,
                                  cudaDataType compute, void* device_buffer, size_t device_bytes,
                                  void* host_buffer, size_t host_bytes, int* info) {
  if (const auto status = check(handle, type, n, leading); status != CUSOLVER_STATUS_SUCCESS) return status;
  if (compute != type) return CUSOLVER_STATUS_NOT_SUPPORTED;
  if (const auto status = use(handle->stream, device_buffer, device_bytes, host_buffer, host_bytes);
      status != CUSOLVER_STATUS_SUCCESS)
    return status;
  submit(handle->stream, [=] {
    with_type(type, a, leading, part, [&](const auto& triangle) { *info = factor(triangle, n); });
  });
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXpotrs(cusolverDnHandle_t handle, cusolverDnParams_t, cublasFillMode_t part,
                                  int64_t n, int64_t right_sides, cudaDataType a_type, const void* a,
                                  int64_t a_leading, cudaDataType b_type, void* b, int64_t b_leading,
                                  int* info) {
  if (const auto status = check(handle, a_type, n, a_leading); status != CUSOLVER_STATUS_SUCCESS)
    return status;
  if (b_type != a_type || b_leading < n || right_sides <= 0) return CUSOLVER_STATUS_INVALID_VALUE;
  submit(handle->stream, [=] {
    with_type(a_type, const_cast<void*>(a), a_leading, part, [&](const auto& triangle) {
      using T = std::decay_t<decltype(*triangle.data)>;
      solve(triangle, n, static_cast<T*>(b), b_leading, right_sides);
      *info = 0;
    });
  });
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXtrtri_bufferSize(cusolverDnHandle_t, cublasFillMode_t, cublasDiagType_t, int64_t,
                                             cudaDataType type, void*, int64_t, size_t* device_bytes,
                                             size_t* host_bytes) {
  if (!is_known(type)) return CUSOLVER_STATUS_NOT_SUPPORTED;
  *device_bytes = kDeviceBytes;
  *host_bytes = kHostBytes;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXtrtri(cusolverDnHandle_t handle, cublasFillMode_t part, cublasDiagType_t diagonal,
                                  int64_t n, cudaDataType type, void* a, int64_t leading, void* device_buffer,
                                  size_t device_bytes, void* host_buffer, size_t host_bytes, int* info) {
  if (const auto status = check(handle, type, n, leading); status != CUSOLVER_STATUS_SUCCESS) return status;
  if (diagonal != CUBLAS_DIAG_NON_UNIT) return CUSOLVER_STATUS_NOT_SUPPORTED;
  if (const auto status = use(handle->stream, device_buffer, device_bytes, host_buffer, host_bytes);
      status != CUSOLVER_STATUS_SUCCESS)
    return status;
  submit(handle->stream, [=] {
    with_type(type, a, leading, part, [&](const auto& triangle) { *info = invert(triangle, n); });
  });
  return CUSOLVER_STATUS_SUCCESS;
}
