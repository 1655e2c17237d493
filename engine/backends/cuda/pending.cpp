// Operations that no file of this folder defines yet. Shrinks to nothing.
#include "engine/backends/cuda/backend_class.h"

namespace pare::cuda {

KernelChoice CudaBackend::choose_sparse(const SparseSummary&) const {
  return {false, "not there yet"};
}
Result<PackedMatrix> CudaBackend::prepack_sparse(std::shared_ptr<const SparseTensor>) {
  return Error{.exit = Exit::unsupported,
               .rule = "CU01",
               .path = "cuda",
               .where = {},
               .what = "prepack_sparse is not there yet",
               .got = {},
               .limit = {}};
}
Result<SparseTensor> CudaBackend::unpack_sparse(const PackedMatrix&) {
  return Error{.exit = Exit::unsupported,
               .rule = "CU01",
               .path = "cuda",
               .where = {},
               .what = "unpack_sparse is not there yet",
               .got = {},
               .limit = {}};
}
DecodeBackend* CudaBackend::decoding() {
  return nullptr;
}

void CudaTraining::attention_backward(const AttentionBackwardArgs&) {
  PARE_ASSERT(false, "[cuda] attention_backward is not there yet");
}
void CudaTraining::loss_rows(const LossRowsArgs&) {
  PARE_ASSERT(false, "[cuda] loss_rows is not there yet");
}
void CudaTraining::adamw(const AdamWArgs&) {
  PARE_ASSERT(false, "[cuda] adamw is not there yet");
}
void CudaTraining::sgd(const SgdArgs&) {
  PARE_ASSERT(false, "[cuda] sgd is not there yet");
}
double CudaTraining::sum_of_squares(const float*, int64_t) {
  PARE_ASSERT(false, "[cuda] sum_of_squares is not there yet");
  return 0.0;
}
void CudaTraining::fake_quantize(const FakeQuantizeArgs&) {
  PARE_ASSERT(false, "[cuda] fake_quantize is not there yet");
}
void CudaTraining::fake_quantize_backward(const FakeQuantizeBackwardArgs&) {
  PARE_ASSERT(false, "[cuda] fake_quantize_backward is not there yet");
}

}  // namespace pare::cuda
