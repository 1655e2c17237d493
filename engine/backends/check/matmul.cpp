#include <cstddef>

#include "engine/backends/check/backend_class.h"
#include "engine/core/assert.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/tolerance.h"

namespace pare::check {
namespace {

// Euclidean norm of each row of a dense weight [n, k].
std::vector<double> row_norms(const void* weight, DType dtype, int64_t n, int64_t k) {
  std::vector<double> norms;
  for (int64_t row = 0; row < n; ++row) {
    double squares = 0.0;
    for (int64_t i = row * k; i < (row + 1) * k; ++i) {
      const float w = dtype == DType::f32    ? static_cast<const float*>(weight)[i]
                      : dtype == DType::bf16 ? bf16_to_float(static_cast<const uint16_t*>(weight)[i])
                                             : f16_to_float(static_cast<const uint16_t*>(weight)[i]);
      squares += double(w) * double(w);
    }
    norms.push_back(std::sqrt(squares));
  }
  return norms;
}

// Compares out [m, n] with `want`; `before` is what out held. roundoff: of the tested backend's factors.
template <typename Args>
void compare_products(Subject subject, const Args& a, const std::vector<double>& weight_norms,
                      const Matrix& before, const Matrix& want, double roundoff) {
  const Matrix x = Matrix::copy_of(a.x, a.m, a.k, a.x_stride);
  std::vector<double> x_norms;
  for (int64_t m = 0; m < a.m; ++m) x_norms.push_back(x.row_norm(m));
  compare(std::move(subject), a.out, a.out_stride, want, [&](int64_t m, int64_t n) {
    double addends = a.bias != nullptr ? std::abs(double(a.bias[n])) : 0.0;
    if (a.accumulate) addends += std::abs(double(before.at(m, n)));
    return tolerance::dot(a.k, x_norms[size_t(m)], weight_norms[size_t(n)], roundoff) +
           2.0 * tolerance::embedding(addends);
  });
}

// Scratch memory for the oracle, aligned as the interface promises.
struct alignas(64) CacheLine {
  std::byte bytes[64];
};
std::vector<CacheLine> scratch(size_t bytes) {
  return std::vector<CacheLine>((bytes + 63) / 64 + 1);
}

}  // namespace

size_t CheckBackend::matmul_workspace_bytes(int64_t m, int64_t n, int64_t k) const {
  return tested_.matmul_workspace_bytes(m, n, k);
}

void CheckBackend::matmul(const MatmulArgs& a) {
  const Matrix before = Matrix::copy_of(a.out, a.m, a.n, a.out_stride);
  Matrix want = before;
  std::vector<CacheLine> workspace = scratch(oracle_.matmul_workspace_bytes(a.m, a.n, a.k));
  MatmulArgs oracle = a;
  oracle.out = want.data();
  oracle.out_stride = a.n;
  oracle.workspace = workspace.data();
  oracle_.matmul(oracle);
  tested_.matmul(a);
  compare_products(subject("matmul", std::string(dtype_name(a.weight_dtype)) + " weight"), a,
                   row_norms(a.weight, a.weight_dtype, a.n, a.k), before, want, tested_.operand_roundoff());
}

size_t CheckBackend::packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const {
  return tested_.packed_matmul_workspace_bytes(tested_form(weight), m);
}

void CheckBackend::packed_matmul(const PackedMatmulArgs& a) {
  const bool is_sparse = a.weight->canonical_sparse != nullptr;
  PARE_ASSERT(is_sparse || a.weight->canonical != nullptr, "[check] a matrix that another backend packed, {}",
              a.weight->layout.name);
  const Matrix before = Matrix::copy_of(a.out, a.m, a.n, a.out_stride);
  Matrix want = before;
  Result<PackedMatrix> oracle_weight = is_sparse ? oracle_.prepack_sparse(a.weight->canonical_sparse)
                                                 : oracle_.prepack(a.weight->canonical);
  PARE_ASSERT(oracle_weight.has_value(), "[check] {}", format_error(oracle_weight.error()));
  std::vector<CacheLine> workspace = scratch(oracle_.packed_matmul_workspace_bytes(*oracle_weight, a.m));
  PackedMatmulArgs oracle = a;
  oracle.weight = &*oracle_weight;
  oracle.out = want.data();
  oracle.out_stride = a.n;
  oracle.workspace = workspace.data();
  oracle_.packed_matmul(oracle);

  const PackedMatrix tested_weight = tested_form(*a.weight);
  PackedMatmulArgs tested = a;
  tested.weight = &tested_weight;
  tested_.packed_matmul(tested);
  if (a.weight->activation) {  // sums of integers: nothing may differ
    compare(subject("packed_matmul", a.weight->scheme.text() + " weight, " + a.weight->activation->text()),
            a.out, a.out_stride, want, [](int64_t, int64_t) { return 0.0; });
    return;
  }
  std::vector<double> norms;
  if (is_sparse) {  // zero points are subtracted exactly, before anything is multiplied
    std::vector<float> row(static_cast<size_t>(a.k));
    for (int64_t n = 0; n < a.n; ++n) {
      a.weight->canonical_sparse->dense_rows(n, n + 1, row.data());
      norms.push_back(row_norms(row.data(), DType::f32, 1, a.k)[0]);
    }
    return compare_products(subject("packed_matmul", a.weight->pattern->text() + " weight"), a, norms, before, want, tested_.operand_roundoff());
  }
  for (int64_t n = 0; n < a.n; ++n) norms.push_back(tolerance::quantized_row_norm(*a.weight->canonical, n));
  compare_products(subject("packed_matmul", a.weight->scheme.text() + " weight"), a, norms, before, want, tested_.operand_roundoff());
}

}  // namespace pare::check
