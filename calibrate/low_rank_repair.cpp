#include "calibrate/low_rank_repair.h"

#include <algorithm>
#include <cmath>

#include "calibrate/low_rank.h"
#include "calibrate/output_error.h"
#include "engine/core/parallel.h"

namespace pare {
namespace {

Result<Tensor> difference(const Tensor& a, const Tensor& b) {
  PARE_TRY(Tensor result, Tensor::allocate(DType::f32, a.shape()));
  const float* x = a.data<float>();
  const float* y = b.data<float>();
  float* out = result.mutable_data<float>();
  parallel_ranges(a.numel(), 65536, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = x[i] - y[i];
  });
  return result;
}

// ||X M^T||^2, without a moment ||M||^2.
Result<double> energy_of(const Tensor& matrix, const Tensor& moment) {
  if (moment.defined()) return output_energy(matrix, moment);
  double sum = 0.0;
  for (int64_t i = 0; i < matrix.numel(); ++i)
    sum += double(matrix.data<float>()[i]) * double(matrix.data<float>()[i]);
  return sum;
}

double relative(double error, double energy) {
  return energy > 0.0 ? std::sqrt(error / energy) : 0.0;
}

}  // namespace

void RepairedWeight::describe(TensorRecord& record) const {
  Json repair = Json::object();
  repair["rank"] = Json(tensor->rank());
  repair["factor_bytes"] = Json(factor_bytes);
  repair[is_weighted ? "output_error_before" : "weight_error_before"] = error_before;
  repair[is_weighted ? "output_error_after" : "weight_error_after"] = error_after;
  record.extra["low_rank_repair"] = std::move(repair);
  if (is_weighted) record.extra["output_error"] = error_after;
  const StoredTensor stored = WeightData{.form = tensor}.described(record.name);
  record.kind = std::string(stored.form_name());
  record.scheme = stored.form_text();
  record.relative_error = relative_error;
  record.max_error = max_error;
  record.bits_per_weight = 8.0 * double(stored.bytes) / double(std::max<int64_t>(1, stored.shape.numel()));
}

Result<std::optional<RepairedWeight>> repair_low_rank(const Tensor& weight, const WeightData& compressed,
                                                      const Tensor& moment, int64_t rank, DType stored,
                                                      std::string_view name) {
  PARE_ASSERT(!compressed.is_low_rank() && !compressed.transposed, "[low_rank_repair] {} has factors", name);
  PARE_TRY(Tensor restored, compressed.to_dense_tensor());
  PARE_TRY(restored, converted(restored, DType::f32));
  PARE_TRY(const Tensor lost, difference(weight, restored));
  restored = Tensor();
  const DType dtype = stored == DType::f16 ? DType::f16 : DType::bf16;
  PARE_TRY(LowRankTensor factors, nearest_low_rank(lost, moment, rank, dtype, name));
  PARE_TRY(const Tensor product, factors.to_dense());
  PARE_TRY(const Tensor left, difference(lost, product));
  PARE_TRY(const double energy, energy_of(weight, moment));
  PARE_TRY(const double before, energy_of(lost, moment));
  PARE_TRY(const double after, energy_of(left, moment));
  if (!(after < before)) return std::optional<RepairedWeight>();
  RepairedWeight repaired;
  repaired.is_weighted = moment.defined();
  repaired.error_before = relative(before, energy);
  repaired.error_after = relative(after, energy);
  repaired.factor_bytes = factors.size_bytes();
  PARE_TRY(const double squares, energy_of(weight, Tensor()));
  PARE_TRY(const double left_squares, energy_of(left, Tensor()));
  repaired.relative_error = relative(left_squares, squares);
  for (int64_t i = 0; i < left.numel(); ++i)
    repaired.max_error = std::max(repaired.max_error, double(std::abs(left.data<float>()[i])));
  if (compressed.is_quantized()) {
    factors.base = compressed.quantized();
  } else if (compressed.is_sparse()) {
    factors.base = compressed.sparse();
  } else {
    factors.base = compressed.dense();
  }
  repaired.tensor = std::make_shared<const LowRankTensor>(std::move(factors));
  return std::optional(std::move(repaired));
}

}  // namespace pare
