// rotary
#include "engine/tensor/ops.h"
#include "engine/tensor/ops/checks.h"

namespace pare::ops {

void rotary(Tensor& x, const Tensor& positions, const Tensor& cosines, const Tensor& sines, int64_t heads) {
  require_activations("rotary", "x", x);
  require_type("rotary", "cosines", cosines, DType::f32);
  require_type("rotary", "sines", sines, DType::f32);
  require_same_shape("rotary", cosines, sines);
  require_same_device("rotary", x, cosines);
  require_same_device("rotary", x, sines);
  require_same_device("rotary", x, positions);
  PARE_ASSERT(cosines.shape().rank() == 2 && cosines.is_contiguous() && sines.is_contiguous(),
              "[rotary] tables {}", cosines.shape().text());
  require_vector("rotary", "positions", positions, DType::i32, rows_of(x));
  PARE_ASSERT(heads > 0 && columns_of(x) % heads == 0, "[rotary] {} heads in {}", heads, x.shape().text());
  const int64_t head_dim = columns_of(x) / heads;
  const int64_t rotary_dim = 2 * cosines.size(1);
  PARE_ASSERT(rotary_dim <= head_dim, "[rotary] {} of {} components", rotary_dim, head_dim);
  require_ids("rotary", positions, 0, cosines.size(0));
  if (x.numel() == 0 || rotary_dim == 0) return;
  backend_for(x.device())
      .rotary({.x = x.mutable_data<float>(),
               .positions = positions.data<int32_t>(),
               .cosines = cosines.data<float>(),
               .sines = sines.data<float>(),
               .tokens = rows_of(x),
               .heads = heads,
               .head_dim = head_dim,
               .rotary_dim = rotary_dim,
               .stride = x.row_stride()});
}

}  // namespace pare::ops
