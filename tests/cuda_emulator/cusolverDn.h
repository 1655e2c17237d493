// tests/cuda_emulator/cusolverDn.h: the part of cuSOLVER that pare uses, as its header declares it: factors
// and inverses of matrices stored by columns, in the triangle that is named; the other triangle is left
// alone.
#pragma once

#include <cublasLt.h>

enum cusolverStatus_t {
  CUSOLVER_STATUS_SUCCESS = 0,
  CUSOLVER_STATUS_NOT_INITIALIZED = 1,
  CUSOLVER_STATUS_INVALID_VALUE = 3,
  CUSOLVER_STATUS_EXECUTION_FAILED = 6,
  CUSOLVER_STATUS_NOT_SUPPORTED = 9,
};
enum cusolverDeterministicMode_t {
  CUSOLVER_DETERMINISTIC_RESULTS = 1,
  CUSOLVER_ALLOW_NON_DETERMINISTIC_RESULTS = 2,
};
struct cusolverDnContext;
using cusolverDnHandle_t = cusolverDnContext*;
struct cusolverDnParams;
using cusolverDnParams_t = cusolverDnParams*;

cusolverStatus_t cusolverGetVersion(int* version);
cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle);
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle);
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream);
cusolverStatus_t cusolverDnSetDeterministicMode(cusolverDnHandle_t handle, cusolverDeterministicMode_t mode);
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* params);
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params);
cusolverStatus_t cusolverDnXpotrf_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                             cublasFillMode_t part, int64_t n, cudaDataType type,
                                             const void* a, int64_t leading, cudaDataType compute,
                                             size_t* device_bytes, size_t* host_bytes);
cusolverStatus_t cusolverDnXpotrf(cusolverDnHandle_t handle, cusolverDnParams_t params, cublasFillMode_t part,
                                  int64_t n, cudaDataType type, void* a, int64_t leading,
                                  cudaDataType compute, void* device_buffer, size_t device_bytes,
                                  void* host_buffer, size_t host_bytes, int* info);
cusolverStatus_t cusolverDnXpotrs(cusolverDnHandle_t handle, cusolverDnParams_t params, cublasFillMode_t part,
                                  int64_t n, int64_t right_sides, cudaDataType a_type, const void* a,
                                  int64_t a_leading, cudaDataType b_type, void* b, int64_t b_leading,
                                  int* info);
cusolverStatus_t cusolverDnXtrtri_bufferSize(cusolverDnHandle_t handle, cublasFillMode_t part,
                                             cublasDiagType_t diagonal, int64_t n, cudaDataType type, void* a,
                                             int64_t leading, size_t* device_bytes, size_t* host_bytes);
cusolverStatus_t cusolverDnXtrtri(cusolverDnHandle_t handle, cublasFillMode_t part, cublasDiagType_t diagonal,
                                  int64_t n, cudaDataType type, void* a, int64_t leading, void* device_buffer,
                                  size_t device_bytes, void* host_buffer, size_t host_bytes, int* info);
