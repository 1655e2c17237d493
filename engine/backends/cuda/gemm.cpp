// Rows and columns. cuBLASLt counts matrices by columns: a row-major [r, c] with stride s is to it a
// column-major c x r matrix with leading dimension s, its transpose. So out[m, n] = a b is given to it as
// out^T = b^T a^T: its A is our b, its B is our a, its m and n are ours exchanged. Stored as we say ([k, n]
// and [m, k]) both are what it wants without a transpose; what we call transposed it has to transpose:
//
//   forward        out = x W^T, W [n, k]:      a = x,         b = W as transposed   ("TN": fastest)
//   input gradient dx = dout W:                a = dout,      b = W                 ("NN")
//   weight gradient dW = dout^T x:             a = dout as transposed, b = x        ("NT")
#include "engine/backends/cuda/gemm.h"

#include <algorithm>
#include <bit>

#include "engine/backends/cuda/libraries.h"

namespace pare::cuda {
namespace {

constexpr int kCandidates = 8;
constexpr size_t kPlans = 4096;  // prompts of many lengths: start again rather than grow

cudaDataType library_type(DType type) {
  switch (type) {
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    case DType::i8:
      return CUDA_R_8I;
    default:
      PARE_ASSERT(type == DType::f32, "[gemm] factors of {}", dtype_name(type));
      return CUDA_R_32F;
  }
}

// Largest power of two that divides an address, up to 256: the strictest that any algorithm asks for.
uint32_t alignment_of(const void* pointer) {
  return uint32_t(1) << std::min(std::countr_zero(reinterpret_cast<uintptr_t>(pointer)), 8);
}

Libraries::PlanKey key_of(const GemmArgs& a) {
  const auto bits = [](const void* pointer) { return int64_t(alignment_of(pointer)); };
  return {int64_t(a.type),
          a.m,
          a.n,
          a.k,
          a.a.stride,
          a.b.stride,
          a.out_stride,
          int64_t(a.a.is_transposed),
          int64_t(a.b.is_transposed),
          bits(a.a.data),
          bits(a.b.data),
          bits(a.out),
          a.bias != nullptr ? bits(a.bias) : 0,
          int64_t(a.accumulate)};
}

template <typename Value>
Status set(const CublasLt& lt, cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
           Value value) {
  return library_status(lt.matmul_set(operation, attribute, &value, sizeof value),
                        "cublasLtMatmulDescSetAttribute");
}
template <typename Value>
Status set(const CublasLt& lt, cublasLtMatmulPreference_t preference,
           cublasLtMatmulPreferenceAttributes_t attribute, Value value) {
  return library_status(lt.preference_set(preference, attribute, &value, sizeof value),
                        "cublasLtMatmulPreferenceSetAttribute");
}

Status describe(const CublasLt& lt, const GemmArgs& a, Libraries::Plan& plan) {
  const bool is_integer = a.type == DType::i8;
  const cudaDataType type = library_type(a.type), out_type = is_integer ? CUDA_R_32I : CUDA_R_32F;
  PARE_CHECK(library_status(
      lt.matmul_create(&plan.operation, is_integer ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F, out_type),
      "cublasLtMatmulDescCreate"));
  const auto transposition = [](bool transposed) { return int32_t(transposed ? CUBLAS_OP_T : CUBLAS_OP_N); };
  PARE_CHECK(set(lt, plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, transposition(a.b.is_transposed)));
  PARE_CHECK(set(lt, plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, transposition(a.a.is_transposed)));
  if (a.bias != nullptr) {
    PARE_CHECK(set(lt, plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(CUBLASLT_EPILOGUE_BIAS)));
    PARE_CHECK(set(lt, plan.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, int32_t(CUDA_R_32F)));
  }
  // the library's rows are what is contiguous: our columns
  const auto layout = [&](cublasLtMatrixLayout_t& made, cudaDataType kind, int64_t rows, int64_t columns,
                          int64_t stride, bool transposed) {
    if (transposed) std::swap(rows, columns);
    return library_status(
        lt.layout_create(&made, kind, uint64_t(columns), uint64_t(rows), std::max(stride, columns)),
        "cublasLtMatrixLayoutCreate");
  };
  PARE_CHECK(layout(plan.a, type, a.k, a.n, a.b.stride, a.b.is_transposed));
  PARE_CHECK(layout(plan.b, type, a.m, a.k, a.a.stride, a.a.is_transposed));
  return layout(plan.out, out_type, a.m, a.n, a.out_stride, false);
}

// The first algorithm in the order of the library's own estimate that needs no more workspace than there is
// and repeats: parts of a split k are added in compute type, in a step of their own.
Status choose(Libraries& libraries, const GemmArgs& a, Libraries::Plan& plan) {
  const CublasLt& lt = libraries.products();
  cublasLtMatmulPreference_t preference = nullptr;
  PARE_CHECK(library_status(lt.preference_create(&preference), "cublasLtMatmulPreferenceCreate"));
  const std::shared_ptr<cublasLtMatmulPreferenceOpaque_t> owner(preference, lt.preference_destroy);
  PARE_CHECK(
      set(lt, preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(Libraries::kWorkspaceBytes)));
  PARE_CHECK(set(lt, preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                 uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)));
  PARE_CHECK(set(lt, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(a.b.data)));
  PARE_CHECK(set(lt, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(a.a.data)));
  PARE_CHECK(set(lt, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(a.out)));
  PARE_CHECK(set(lt, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(a.out)));
  cublasLtMatmulHeuristicResult_t candidates[kCandidates]{};
  int count = 0;
  PARE_CHECK(library_status(lt.heuristic(libraries.products_handle(), plan.operation, plan.a, plan.b,
                                         plan.out, plan.out, preference, kCandidates, candidates, &count),
                            "cublasLtMatmulAlgoGetHeuristic"));
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulHeuristicResult_t& candidate = candidates[i];
    if (candidate.state != CUBLAS_STATUS_SUCCESS || candidate.workspaceSize > Libraries::kWorkspaceBytes)
      continue;
    plan.algorithm = candidate.algo;
    return {};
  }
  return library_status(CUBLAS_STATUS_NOT_SUPPORTED, "cublasLtMatmulAlgoGetHeuristic");
}

Status run(Context& context, const GemmArgs& a) {
  Libraries& libraries = context.libraries();
  PARE_CHECK(libraries.open_products());
  const CublasLt& lt = libraries.products();
  const Libraries::PlanKey key = key_of(a);
  auto found = libraries.plans().find(key);
  const bool is_new = found == libraries.plans().end();
  if (is_new) {
    if (libraries.plans().size() >= kPlans) libraries.forget_plans();
    found = libraries.plans().emplace(key, Libraries::Plan{}).first;
  }
  Libraries::Plan& plan = found->second;
  const auto prepare = [&]() -> Status {
    if (is_new) {
      PARE_CHECK(describe(lt, a, plan));
    }
    // before the choice: the library reads its alignment from it
    if (a.bias != nullptr) {
      PARE_CHECK(set(lt, plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, a.bias));
    }
    if (is_new) {
      PARE_CHECK(choose(libraries, a, plan));
    }
    return {};
  };
  if (const Status ready = prepare(); !ready) {
    if (is_new) libraries.forget_plans();  // a half-made plan must not be found again
    return ready;
  }
  const float alpha = a.alpha, beta = a.accumulate ? 1.0f : 0.0f;
  const int32_t integer_alpha = 1, integer_beta = a.accumulate ? 1 : 0;
  const bool is_integer = a.type == DType::i8;
  return library_status(
      lt.matmul(libraries.products_handle(), plan.operation,
                is_integer ? static_cast<const void*>(&integer_alpha) : &alpha, a.b.data, plan.a, a.a.data,
                plan.b, is_integer ? static_cast<const void*>(&integer_beta) : &beta, a.out, plan.out, a.out,
                plan.out, &plan.algorithm, libraries.workspace(), Libraries::kWorkspaceBytes,
                context.stream()),
      "cublasLtMatmul");
}

}  // namespace

void gemm(Context& context, const char* name, const GemmArgs& a) {
  PARE_ASSERT(a.type != DType::i8 ||
                  (a.bias == nullptr && a.alpha == 1.0f && !a.a.is_transposed && a.b.is_transposed),
              "[{}] such products of bytes do not exist", name);
  if (Status status = run(context, a); !status) context.note_failure(name, status.error());
}

}  // namespace pare::cuda
