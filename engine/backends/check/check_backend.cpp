#include "engine/backends/check/check_backend.h"

#include <cstring>

#include "engine/backends/check/backend_class.h"
#include "engine/core/assert.h"
#include "engine/tensor/storage.h"

namespace pare {

std::unique_ptr<Backend> make_check_backend(Backend& tested, Backend& oracle, const CheckOptions& options) {
  PARE_ASSERT(tested.device().is_host() && oracle.device().is_host(), "[check] {} against {}",
              tested.device().name(), oracle.device().name());
  return std::make_unique<check::CheckBackend>(tested, oracle, options);
}

namespace check {
namespace {

void require_equal_bytes(const Subject& subject, const char* part, const Tensor& got, const Tensor& want) {
  const bool same = got.defined() == want.defined() &&
                    (!got.defined() || (got.dtype() == want.dtype() && got.shape() == want.shape() &&
                                        std::memcmp(got.raw(), want.raw(), want.size_bytes()) == 0));
  PARE_ASSERT(same, "[check] {} {}: {} of {} differ after packing and unpacking", subject.op, subject.types,
              part, subject.tested);
}

}  // namespace

std::string CheckBackend::description() const {
  return "check: " + tested_.description() + " against " + oracle_.description();
}

Result<std::shared_ptr<Storage>> CheckBackend::allocate(size_t bytes) {
  return Storage::allocate(bytes, device());
}

Result<PackedMatrix> CheckBackend::prepack(std::shared_ptr<const QuantizedTensor> weight) {
  PARE_TRY(PackedMatrix packed, tested_.prepack(weight));
  PARE_TRY(const QuantizedTensor unpacked, tested_.unpack(packed));
  const Subject what = subject("prepack", weight->scheme.text());
  PARE_ASSERT(unpacked.scheme == weight->scheme && unpacked.shape == weight->shape,
              "[check] prepack: {} gives {} {}", weight->scheme.text(), unpacked.scheme.text(),
              unpacked.shape.text());
  PARE_ASSERT(unpacked.activation == weight->activation, "[check] prepack: {} loses how inputs are rounded",
              weight->scheme.text());
  require_equal_bytes(what, "codes", unpacked.codes, weight->codes);
  require_equal_bytes(what, "scales", unpacked.scales, weight->scales);
  require_equal_bytes(what, "zero points", unpacked.zero_points, weight->zero_points);
  require_equal_bytes(what, "minimums", unpacked.minimums, weight->minimums);
  require_equal_bytes(what, "group index", unpacked.group_index, weight->group_index);
  require_equal_bytes(what, "codebook", unpacked.codebook, weight->codebook);
  packed.canonical = std::move(weight);
  return packed;
}

PackedMatrix CheckBackend::tested_form(const PackedMatrix& packed) {
  PackedMatrix result = packed;
  if (packed.codes.defined()) {
    result.canonical = nullptr;
    result.canonical_sparse = nullptr;
  }
  return result;
}

Result<PackedMatrix> CheckBackend::prepack_sparse(std::shared_ptr<const SparseTensor> weight) {
  PARE_TRY(PackedMatrix packed, tested_.prepack_sparse(weight));
  PARE_TRY(const SparseTensor unpacked, tested_.unpack_sparse(packed));
  const Subject what = subject("prepack_sparse", weight->pattern.text());
  PARE_ASSERT(unpacked.pattern == weight->pattern && unpacked.shape == weight->shape &&
                  unpacked.scheme == weight->scheme && unpacked.activation == weight->activation,
              "[check] prepack_sparse: {} {} gives {} {}", weight->pattern.text(), weight->shape.text(),
              unpacked.pattern.text(), unpacked.shape.text());
  require_equal_bytes(what, "mask", unpacked.mask, weight->mask);
  require_equal_bytes(what, "indices", unpacked.indices, weight->indices);
  require_equal_bytes(what, "row pointers", unpacked.row_pointers, weight->row_pointers);
  require_equal_bytes(what, "values", unpacked.values, weight->values);
  require_equal_bytes(what, "codes", unpacked.codes, weight->codes);
  require_equal_bytes(what, "scales", unpacked.scales, weight->scales);
  require_equal_bytes(what, "zero points", unpacked.zero_points, weight->zero_points);
  require_equal_bytes(what, "minimums", unpacked.minimums, weight->minimums);
  require_equal_bytes(what, "codebook", unpacked.codebook, weight->codebook);
  packed.canonical_sparse = std::move(weight);
  return packed;
}

Result<SparseTensor> CheckBackend::unpack_sparse(const PackedMatrix& packed) {
  return tested_.unpack_sparse(tested_form(packed));
}

Result<QuantizedTensor> CheckBackend::unpack(const PackedMatrix& packed) {
  return tested_.unpack(tested_form(packed));
}

}  // namespace check
}  // namespace pare
