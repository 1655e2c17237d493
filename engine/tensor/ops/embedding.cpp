// embedding from a dense or a quantized table
#include "engine/tensor/ops.h"
#include "engine/tensor/ops/checks.h"

namespace pare::ops {
namespace {

void check(const Tensor& ids, int64_t rows, int64_t channels, const Tensor& out) {
  require_activations("embedding", "out", out);
  require_same_device("embedding", ids, out);
  require_vector("embedding", "ids", ids, DType::i32, rows_of(out));
  PARE_ASSERT(columns_of(out) == channels, "[embedding] table of {} channels, out {}", channels,
              out.shape().text());
  require_ids("embedding", ids, 0, rows);
}

}  // namespace

void embedding(const Tensor& ids, const Tensor& table, float scale, bool accumulate, Tensor& out) {
  PARE_ASSERT(table.defined() && table.shape().rank() == 2 && table.is_contiguous() &&
                  is_half_or_float(table.dtype()),
              "[embedding] table {} {}", dtype_name(table.dtype()), table.shape().text());
  check(ids, table.size(0), table.size(1), out);
  require_same_device("embedding", ids, table);
  if (out.numel() == 0) return;
  backend_for(out.device())
      .embedding({.ids = ids.data<int32_t>(),
                  .table = table.raw(),
                  .table_dtype = table.dtype(),
                  .out = out.mutable_data<float>(),
                  .tokens = rows_of(out),
                  .rows = table.size(0),
                  .channels = table.size(1),
                  .out_stride = out.row_stride(),
                  .scale = scale,
                  .accumulate = accumulate});
}

void embedding(const Tensor& ids, const QuantizedTensor& table, float scale, bool accumulate, Tensor& out) {
  check(ids, table.out(), table.in(), out);
  if (out.numel() == 0) return;
  backend_for(out.device())
      .quantized_embedding({.ids = ids.data<int32_t>(),
                            .table = &table,
                            .out = out.mutable_data<float>(),
                            .tokens = rows_of(out),
                            .out_stride = out.row_stride(),
                            .scale = scale,
                            .accumulate = accumulate});
}

}  // namespace pare::ops
