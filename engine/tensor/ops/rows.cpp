// positions, gather_rows, scatter_rows
#include "engine/tensor/ops.h"
#include "engine/tensor/ops/checks.h"

namespace pare::ops {

void positions(int64_t first, int64_t period, Tensor& out) {
  require_type("positions", "out", out, DType::i32);
  PARE_ASSERT(out.is_contiguous() && period > 0 && first >= 0, "[positions] {} by {}", first, period);
  if (out.numel() == 0) return;
  backend_for(out.device())
      .positions(
          {.out = out.mutable_data<int32_t>(), .count = out.numel(), .period = period, .first = first});
}

void gather_rows(const Tensor& x, const Tensor& index, int64_t divisor, Tensor& out) {
  require_activations("gather_rows", "x", x);
  require_vector("gather_rows", "index", index, DType::i32, rows_of(out));
  require_same_device("gather_rows", x, index);
  require_same_device("gather_rows", x, out);
  PARE_ASSERT(columns_of(x) == columns_of(out), "[gather_rows] {} from {}", out.shape().text(),
              x.shape().text());
  require_ids("gather_rows", index, 0, rows_of(x) * divisor);
  if (out.numel() == 0) return;
  backend_for(x.device())
      .gather_rows({.x = x.data<float>(),
                    .index = index.data<int32_t>(),
                    .out = out.mutable_data<float>(),
                    .count = rows_of(out),
                    .channels = columns_of(out),
                    .divisor = divisor,
                    .x_stride = x.row_stride(),
                    .out_stride = out.row_stride()});
}

void scatter_rows(const Tensor& x, const Tensor& index, const Tensor& scales, int64_t divisor, Tensor& out) {
  require_activations("scatter_rows", "x", x);
  require_vector("scatter_rows", "index", index, DType::i32, rows_of(x));
  require_activations("scatter_rows", "scales", scales);
  require_same_device("scatter_rows", x, index);
  require_same_device("scatter_rows", x, scales);
  require_same_device("scatter_rows", x, out);
  PARE_ASSERT(columns_of(x) == columns_of(out) && scales.is_contiguous(), "[scatter_rows] {} to {}",
              x.shape().text(), out.shape().text());
  require_ids("scatter_rows", index, 0, std::min(rows_of(out) * divisor, scales.numel()));
  if (x.numel() == 0) return;
  backend_for(x.device())
      .scatter_rows({.x = x.data<float>(),
                     .index = index.data<int32_t>(),
                     .scales = scales.data<float>(),
                     .out = out.mutable_data<float>(),
                     .count = rows_of(x),
                     .channels = columns_of(x),
                     .divisor = divisor,
                     .x_stride = x.row_stride(),
                     .out_stride = out.row_stride()});
}

}  // namespace pare::ops
