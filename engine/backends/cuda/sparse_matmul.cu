#include "engine/backends/cuda/sparse_matmul.h"

#include "engine/backends/cuda/device_parts.h"
#include "engine/backends/cuda/sparse_kernels.h"

namespace pare::cuda {
namespace {

enum class Path : uint8_t { mma, vector, expand };

Path path_of(MathMode math, const SparseForm& form, int64_t m) {
  if (form.is_of_four && math == MathMode::bf16) return Path::mma;
  return m <= kSparseVectorTokens ? Path::vector : Path::expand;
}

// What the dense kernels get: values as they are, codes in the type of products.
DType dense_dtype(MathMode math, const PackedMatrix& weight) {
  if (weight.value_dtype != DType::u8) return weight.value_dtype;
  return math == MathMode::f32 ? DType::f32 : DType::bf16;
}

size_t dense_bytes(MathMode math, const PackedMatrix& weight) {
  const auto bytes = size_t(weight.out * weight.in * dtype_bytes(dense_dtype(math, weight)));
  return (bytes + 63) / 64 * 64;
}

}  // namespace

SparseProblem sparse_problem(const PackedMatmulArgs& a) {
  const PackedMatrix& weight = *a.weight;
  SparseProblem p{};
  p.x = a.x, p.bias = a.bias, p.out = a.out;
  p.codes = weight.codes.data<uint8_t>();
  if (weight.starts.defined()) p.starts = weight.starts.data<int64_t>();
  p.m = a.m, p.n = a.n, p.k = a.k, p.x_stride = a.x_stride, p.out_stride = a.out_stride;
  p.accumulate = a.accumulate;
  p.groups = 1, p.group_width = a.k;
  if (weight.value_dtype != DType::u8) return p;
  p.scales = weight.scales.data<float>();
  if (weight.offsets.defined()) p.zeros = weight.offsets.data<float>();
  p.zero = float(weight.scheme.symmetric_zero_point());
  p.groups = weight.scheme.groups(a.k);
  p.group_width = weight.scheme.group_width(a.k);
  return p;
}

void launch_masked_expand(Context& context, const SparseForm& form, const SparseProblem& p, DType dtype,
                          void* dense);
void launch_of_four_expand(Context& context, const SparseForm& form, const SparseProblem& p, DType dtype,
                           void* dense);

void launch_expand(Context& context, const SparseForm& form, const SparseProblem& p, DType dtype,
                   void* dense) {
  if (form.is_of_four) return launch_of_four_expand(context, form, p, dtype, dense);
  launch_masked_expand(context, form, p, dtype, dense);
}

size_t sparse_matmul_workspace_bytes(const CudaBackend& backend, const PackedMatrix& weight, int64_t m) {
  const MathMode math = backend.context().math();
  switch (path_of(math, sparse_form(weight), m)) {
    case Path::mma:
      return of_four_mma_workspace_bytes(m, weight.in);
    case Path::vector:
      return 0;
    case Path::expand:
      break;
  }
  return dense_bytes(math, weight) + backend.matmul_workspace_bytes(m, weight.out, weight.in);
}

size_t planned_sparse_workspace_bytes(int64_t m, int64_t k) {
  return of_four_mma_workspace_bytes(m, k);
}

void sparse_matmul(CudaBackend& backend, const PackedMatmulArgs& a) {
  Context& context = backend.context();
  const SparseForm form = sparse_form(*a.weight);
  const SparseProblem p = sparse_problem(a);
  switch (path_of(context.math(), form, a.m)) {
    case Path::mma:
      return launch_of_four_mma(context, form, p, a.workspace);
    case Path::vector:
      return form.is_of_four ? launch_of_four_vector(context, form, p)
                             : launch_masked_vector(context, form, p);
    case Path::expand:
      break;
  }
  const DType dtype = dense_dtype(context.math(), *a.weight);
  launch_expand(context, form, p, dtype, a.workspace);
  backend.matmul(
      {.x = a.x,
       .weight = a.workspace,
       .weight_dtype = dtype,
       .bias = a.bias,
       .out = a.out,
       .m = a.m,
       .n = a.n,
       .k = a.k,
       .x_stride = a.x_stride,
       .out_stride = a.out_stride,
       .accumulate = a.accumulate,
       .workspace = static_cast<std::byte*>(a.workspace) + dense_bytes(context.math(), *a.weight)});
}

KernelChoice CudaBackend::choose_sparse(const SparseSummary& weight) const {
  return choose_sparse_form(weight);
}

Result<PackedMatrix> CudaBackend::prepack_sparse(std::shared_ptr<const SparseTensor> weight) {
  PARE_ASSERT(weight != nullptr, "[prepack] nothing to pack");
  PARE_TRY(PackedMatrix packed, pack_sparse(*weight));
  return parts_to_device(*this, std::move(packed));
}

Result<SparseTensor> CudaBackend::unpack_sparse(const PackedMatrix& packed) {
  PARE_TRY(const PackedMatrix host, parts_to_host(*this, packed));
  return unpack_sparse_parts(host);
}

}  // namespace pare::cuda
