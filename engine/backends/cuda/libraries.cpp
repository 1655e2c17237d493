#include "engine/backends/cuda/libraries.h"

#ifndef PARE_CUDA_EMULATOR
#include <dlfcn.h>
#endif
#include <fmt/core.h>

#include <vector>

#include "engine/backends/cuda/context.h"
#include "engine/backends/cuda/memory_pool.h"

namespace pare::cuda {
namespace {

Error library_error(std::string path, const char* what, std::string got) {
  return Error{.exit = Exit::resource,
               .rule = "RL06",
               .path = std::move(path),
               .where = {},
               .what = what,
               .got = std::move(got),
               .limit = {}};
}

#ifdef PARE_CUDA_EMULATOR
// The functions of tests/cuda_emulator are there from the start.
class SharedLibrary {
 public:
  explicit SharedLibrary(const char*) {}
  template <typename Function>
  void find(Function*& member, Function* function, const char*) {
    member = function;
  }
  Status status() const { return {}; }
};
#define PARE_FIND(library, member, function) (library).find(member, &::function, #function)
#else
// Stays open until the process ends: closing it would take the functions from under handles.
class SharedLibrary {
 public:
  explicit SharedLibrary(const char* name) : name_(name) {
    library_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) why_ = dlerror();
#ifdef PARE_CUDA_LIBRARY_FOLDER  // of the toolkit that pare was built with
    if (library_ == nullptr)
      library_ = dlopen(fmt::format("{}/{}", PARE_CUDA_LIBRARY_FOLDER, name).c_str(), RTLD_NOW | RTLD_LOCAL);
#endif
  }
  template <typename Function>
  void find(Function*& member, const char* function) {
    if (library_ == nullptr) return;
    member = reinterpret_cast<Function*>(dlsym(library_, function));
    if (member == nullptr && why_missing_.empty()) why_missing_ = function;
  }
  Status status() const {
    if (library_ == nullptr) return library_error(name_, "library is missing", why_);
    if (!why_missing_.empty()) return library_error(name_, "library has no such function", why_missing_);
    return {};
  }

 private:
  const char* name_;
  void* library_ = nullptr;
  std::string why_, why_missing_;
};
#define PARE_FIND(library, member, function) (library).find(member, #function)
#endif

// The libraries of the toolkit whose headers this was built with: 13 and 12 for CUDA 13, 12 and 11 for
// CUDA 12.
#define PARE_TEXT_OF(macro) PARE_TEXT(macro)
#define PARE_TEXT(text) #text

Result<CublasLt> find_cublas_lt() {
  SharedLibrary library("libcublasLt.so." PARE_TEXT_OF(CUBLAS_VER_MAJOR));
  CublasLt table{};
  PARE_FIND(library, table.create, cublasLtCreate);
  PARE_FIND(library, table.destroy, cublasLtDestroy);
  PARE_FIND(library, table.status_name, cublasLtGetStatusName);
  PARE_FIND(library, table.version, cublasLtGetVersion);
  PARE_FIND(library, table.matmul_create, cublasLtMatmulDescCreate);
  PARE_FIND(library, table.matmul_destroy, cublasLtMatmulDescDestroy);
  PARE_FIND(library, table.matmul_set, cublasLtMatmulDescSetAttribute);
  PARE_FIND(library, table.layout_create, cublasLtMatrixLayoutCreate);
  PARE_FIND(library, table.layout_destroy, cublasLtMatrixLayoutDestroy);
  PARE_FIND(library, table.preference_create, cublasLtMatmulPreferenceCreate);
  PARE_FIND(library, table.preference_destroy, cublasLtMatmulPreferenceDestroy);
  PARE_FIND(library, table.preference_set, cublasLtMatmulPreferenceSetAttribute);
  PARE_FIND(library, table.heuristic, cublasLtMatmulAlgoGetHeuristic);
  PARE_FIND(library, table.matmul, cublasLtMatmul);
  PARE_CHECK(library.status());
  return table;
}

Result<Cusolver> find_cusolver() {
  SharedLibrary library("libcusolver.so." PARE_TEXT_OF(CUSOLVER_VER_MAJOR));
  Cusolver table{};
  PARE_FIND(library, table.create, cusolverDnCreate);
  PARE_FIND(library, table.destroy, cusolverDnDestroy);
  PARE_FIND(library, table.set_stream, cusolverDnSetStream);
  PARE_FIND(library, table.version, cusolverGetVersion);
  PARE_FIND(library, table.set_deterministic, cusolverDnSetDeterministicMode);
  PARE_FIND(library, table.create_params, cusolverDnCreateParams);
  PARE_FIND(library, table.destroy_params, cusolverDnDestroyParams);
  PARE_FIND(library, table.potrf_buffer, cusolverDnXpotrf_bufferSize);
  PARE_FIND(library, table.potrf, cusolverDnXpotrf);
  PARE_FIND(library, table.potrs, cusolverDnXpotrs);
  PARE_FIND(library, table.trtri_buffer, cusolverDnXtrtri_bufferSize);
  PARE_FIND(library, table.trtri, cusolverDnXtrtri);
  PARE_CHECK(library.status());
  return table;
}
#undef PARE_FIND
#undef PARE_TEXT
#undef PARE_TEXT_OF

}  // namespace

Result<const CublasLt*> open_cublas_lt() {
  static const Result<CublasLt> table = find_cublas_lt();
  if (!table) return table.error();
  return &*table;
}

Result<const Cusolver*> open_cusolver() {
  static const Result<Cusolver> table = find_cusolver();
  if (!table) return table.error();
  return &*table;
}

std::string describe_libraries() {
  // cuBLASLt counts 130002 for 13.0.2, cuSOLVER 12004.
  std::string text = "no cuBLASLt";
  if (const auto table = open_cublas_lt()) {
    const size_t version = (*table)->version();
    text = fmt::format("cuBLASLt {}.{}.{}", version / 10000, version % 10000 / 100, version % 100);
  }
  int version = 0;
  const auto solver = open_cusolver();
  if (!solver || (*solver)->version(&version) != CUSOLVER_STATUS_SUCCESS) return text + ", no cuSOLVER";
  return text + fmt::format(", cuSOLVER {}.{}.{}", version / 1000, version % 1000 / 100, version % 100);
}

Status library_status(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  const auto table = open_cublas_lt();
  return library_error("cuBLASLt", "the library refused",
                       fmt::format("{} in {}", table ? (*table)->status_name(status) : "?", call));
}

Status library_status(cusolverStatus_t status, const char* call) {
  if (status == CUSOLVER_STATUS_SUCCESS) return {};
  return library_error("cuSOLVER", "the library refused", fmt::format("status {} in {}", int(status), call));
}

Libraries::~Libraries() {
  forget_plans();
  if (lt_handle_ != nullptr) lt_->destroy(lt_handle_);
  if (solver_params_ != nullptr) solver_->destroy_params(solver_params_);
  if (solver_handle_ != nullptr) solver_->destroy(solver_handle_);
}

Status Libraries::open_products() {
  if (lt_handle_ != nullptr) return {};
  PARE_TRY(lt_, open_cublas_lt());
  PARE_TRY(workspace_, context_.pool().allocate(kWorkspaceBytes));
  return library_status(lt_->create(&lt_handle_), "cublasLtCreate");
}

Status Libraries::open_solver() {
  if (solver_params_ != nullptr) return {};
  PARE_TRY(solver_, open_cusolver());
  if (solver_handle_ == nullptr) {
    PARE_CHECK(library_status(solver_->create(&solver_handle_), "cusolverDnCreate"));
  }
  PARE_CHECK(library_status(solver_->set_stream(solver_handle_, context_.stream()), "cusolverDnSetStream"));
  PARE_CHECK(library_status(solver_->set_deterministic(solver_handle_, CUSOLVER_DETERMINISTIC_RESULTS),
                            "cusolverDnSetDeterministicMode"));
  return library_status(solver_->create_params(&solver_params_), "cusolverDnCreateParams");
}

void Libraries::abandon() {
  plans_.clear();
  lt_handle_ = nullptr;
  solver_params_ = nullptr;
  solver_handle_ = nullptr;
}

void Libraries::forget_plans() {
  for (auto& [key, plan] : plans_) {
    if (plan.operation != nullptr) lt_->matmul_destroy(plan.operation);
    for (cublasLtMatrixLayout_t layout : {plan.a, plan.b, plan.out})
      if (layout != nullptr) lt_->layout_destroy(layout);
  }
  plans_.clear();
}

}  // namespace pare::cuda
