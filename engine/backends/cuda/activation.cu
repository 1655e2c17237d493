// activation, gated_activation, add, softcap: one quad per thread (quads.h). What has no gaps between its
// rows is one long row.
#include "engine/backends/cuda/activation_math.h"
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/quads.h"

namespace pare::cuda {
namespace {

struct ActivationOp {
  const float* x;
  float* out;
  int64_t x_stride, out_stride;
  Activation kind;

  template <bool Wide>
  __device__ void run(int64_t row, int64_t c, int64_t columns) const {
    Quad q = load_quad<Wide>(x + row * x_stride, c, columns);
    with_activation(kind, [&]<Activation Kind>() {
#pragma unroll
      for (int j = 0; j < kQuad; ++j) q.v[j] = evaluate<Kind>(q.v[j]);
    });
    store_quad<Wide>(out + row * out_stride, c, columns, q);
  }
};

struct GatedActivationOp {
  const float* gate;
  const float* up;
  float* out;
  int64_t gate_stride, up_stride, out_stride;
  Activation kind;

  template <bool Wide>
  __device__ void run(int64_t row, int64_t c, int64_t columns) const {
    Quad g = load_quad<Wide>(gate + row * gate_stride, c, columns);
    const Quad u = load_quad<Wide>(up + row * up_stride, c, columns);
    with_activation(kind, [&]<Activation Kind>() {
#pragma unroll
      for (int j = 0; j < kQuad; ++j) g.v[j] = evaluate<Kind>(g.v[j]) * u.v[j];
    });
    store_quad<Wide>(out + row * out_stride, c, columns, g);
  }
};

struct AddOp {
  const float* x;
  const float* y;
  float* out;

  template <bool Wide>
  __device__ void run(int64_t, int64_t c, int64_t columns) const {
    Quad sum = load_quad<Wide>(x, c, columns);
    const Quad other = load_quad<Wide>(y, c, columns);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) sum.v[j] += other.v[j];
    store_quad<Wide>(out, c, columns, sum);
  }
};

struct SoftcapOp {
  float* x;
  float cap;

  template <bool Wide>
  __device__ void run(int64_t, int64_t c, int64_t columns) const {
    Quad q = load_quad<Wide>(x, c, columns);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) q.v[j] = cap * tanhf(q.v[j] / cap);
    store_quad<Wide>(x, c, columns, q);
  }
};

}  // namespace

void CudaBackend::activation(const ActivationArgs& a) {
  const bool is_one = a.x_stride == a.columns && a.out_stride == a.columns;
  const bool is_wide =
      rows_are_wide(a.x, is_one ? 0 : a.x_stride) && rows_are_wide(a.out, is_one ? 0 : a.out_stride);
  launch_elementwise(*context_, "activation", ActivationOp{a.x, a.out, a.x_stride, a.out_stride, a.kind},
                     is_one ? 1 : a.rows, is_one ? a.rows * a.columns : a.columns, is_wide);
}

void CudaBackend::gated_activation(const GatedActivationArgs& a) {
  const bool is_one = a.gate_stride == a.columns && a.up_stride == a.columns && a.out_stride == a.columns;
  const bool is_wide = rows_are_wide(a.gate, is_one ? 0 : a.gate_stride) &&
                       rows_are_wide(a.up, is_one ? 0 : a.up_stride) &&
                       rows_are_wide(a.out, is_one ? 0 : a.out_stride);
  launch_elementwise(*context_, "gated_activation",
                     GatedActivationOp{a.gate, a.up, a.out, a.gate_stride, a.up_stride, a.out_stride, a.kind},
                     is_one ? 1 : a.rows, is_one ? a.rows * a.columns : a.columns, is_wide);
}

void CudaBackend::add(const AddArgs& a) {
  const bool is_wide = rows_are_wide(a.x, 0) && rows_are_wide(a.y, 0) && rows_are_wide(a.out, 0);
  launch_elementwise(*context_, "add", AddOp{a.x, a.y, a.out}, 1, a.count, is_wide);
}

void CudaBackend::softcap(const SoftcapArgs& a) {
  launch_elementwise(*context_, "softcap", SoftcapOp{a.x, a.cap}, 1, a.count, rows_are_wide(a.x, 0));
}

}  // namespace pare::cuda
