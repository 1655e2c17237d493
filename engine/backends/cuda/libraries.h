// engine/backends/cuda/libraries.h: cuBLASLt and cuSOLVER, opened when they are first needed.
//
// Linked statically they would add hundreds of megabytes, linked dynamically a machine without them could not
// even start the program: so they are opened by name, and what is missing is an error (exit 6) of the
// operation that wanted it.
#pragma once

#include <cublasLt.h>
#include <cusolverDn.h>

#include <array>
#include <map>
#include <memory>
#include <string>

#include "engine/core/result.h"

namespace pare::cuda {

class Context;

// The functions that are used, with the types that the headers declare.
struct CublasLt {
  decltype(&::cublasLtCreate) create;
  decltype(&::cublasLtDestroy) destroy;
  decltype(&::cublasLtGetStatusName) status_name;
  decltype(&::cublasLtGetVersion) version;
  decltype(&::cublasLtMatmulDescCreate) matmul_create;
  decltype(&::cublasLtMatmulDescDestroy) matmul_destroy;
  decltype(&::cublasLtMatmulDescSetAttribute) matmul_set;
  decltype(&::cublasLtMatrixLayoutCreate) layout_create;
  decltype(&::cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&::cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&::cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&::cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&::cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&::cublasLtMatmul) matmul;
};
struct Cusolver {
  decltype(&::cusolverDnCreate) create;
  decltype(&::cusolverDnDestroy) destroy;
  decltype(&::cusolverDnSetStream) set_stream;
  decltype(&::cusolverGetVersion) version;
  decltype(&::cusolverDnSetDeterministicMode) set_deterministic;
  decltype(&::cusolverDnCreateParams) create_params;
  decltype(&::cusolverDnDestroyParams) destroy_params;
  decltype(&::cusolverDnXpotrf_bufferSize) potrf_buffer;
  decltype(&::cusolverDnXpotrf) potrf;
  decltype(&::cusolverDnXpotrs) potrs;
  decltype(&::cusolverDnXtrtri_bufferSize) trtri_buffer;
  decltype(&::cusolverDnXtrtri) trtri;
};

// Opened once per process. Exit 6 with the library's name and the reason, and again at every later call.
Result<const CublasLt*> open_cublas_lt();
Result<const Cusolver*> open_cusolver();

// What a call of either said: no error, or one (exit 6) with the name of the call.
Status library_status(cublasStatus_t status, const char* call);
Status library_status(cusolverStatus_t status, const char* call);

// The handles of one context, and what is remembered of products that were asked for before.
class Libraries {
 public:
#ifdef PARE_CUDA_EMULATOR
  static constexpr size_t kWorkspaceBytes = size_t{64} << 10;  // opening and closing its pages is slow there
#else
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what Hopper's kernels want at most
#endif

  explicit Libraries(Context& context) : context_(context) {}
  ~Libraries();
  Libraries(const Libraries&) = delete;
  Libraries& operator=(const Libraries&) = delete;

  // Everything that a product needs: workspace and handle. Exit 6.
  Status open_products();
  const CublasLt& products() const {
    return *lt_;
  }
  cublasLtHandle_t products_handle() const {
    return lt_handle_;
  }
  void* workspace() const {
    return workspace_.get();
  }
  // Exit 6.
  Status open_solver();
  const Cusolver& solver() const {
    return *solver_;
  }
  cusolverDnHandle_t solver_handle() const {
    return solver_handle_;
  }
  cusolverDnParams_t solver_params() const {
    return solver_params_;
  }

  // A product of one shape, kind and alignment, with the algorithm that the library's rule gives it.
  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, out = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
  };
  using PlanKey = std::array<int64_t, 14>;
  std::map<PlanKey, Plan>& plans() {
    return plans_;
  }
  void forget_plans();
  // Nothing will be closed: the process ends, and the libraries' own objects are gone already.
  void abandon();

 private:
  Context& context_;
  const CublasLt* lt_ = nullptr;
  cublasLtHandle_t lt_handle_ = nullptr;
  std::shared_ptr<void> workspace_;
  std::map<PlanKey, Plan> plans_;
  const Cusolver* solver_ = nullptr;
  cusolverDnHandle_t solver_handle_ = nullptr;
  cusolverDnParams_t solver_params_ = nullptr;
};

}  // namespace pare::cuda
