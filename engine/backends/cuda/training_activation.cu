// activation_backward, gated_activation_backward: one quad per thread (quads.h).
#include "engine/backends/cuda/activation_math.h"
#include "engine/backends/cuda/quads.h"
#include "engine/backends/cuda/training_class.h"

namespace pare::cuda {
namespace {

struct ActivationBackwardOp {
  ActivationBackwardArgs a;

  template <bool Wide>
  __device__ void run(int64_t row, int64_t c, int64_t columns) const {
    const Quad x = load_quad<Wide>(a.x + row * a.x_stride, c, columns);
    Quad d = load_quad<Wide>(a.dout + row * a.dout_stride, c, columns);
    with_activation(a.kind, [&]<Activation Kind>() {
#pragma unroll
      for (int j = 0; j < kQuad; ++j) d.v[j] = slope_at<Kind>(x.v[j]).slope * d.v[j];
    });
    store_quad<Wide>(a.dx + row * a.dx_stride, c, columns, d);
  }
};

// Everything is read before anything is written: dgate and dup may stand in the place of any operand.
struct GatedActivationBackwardOp {
  GatedActivationBackwardArgs a;

  template <bool Wide>
  __device__ void run(int64_t row, int64_t c, int64_t columns) const {
    Quad gate = load_quad<Wide>(a.gate + row * a.gate_stride, c, columns);
    Quad up = load_quad<Wide>(a.up + row * a.up_stride, c, columns);
    const Quad dout = load_quad<Wide>(a.dout + row * a.dout_stride, c, columns);
    with_activation(a.kind, [&]<Activation Kind>() {
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        const Slope f = slope_at<Kind>(gate.v[j]);
        gate.v[j] = dout.v[j] * up.v[j] * f.slope;
        up.v[j] = dout.v[j] * f.value;
      }
    });
    store_quad<Wide>(a.dgate + row * a.dgate_stride, c, columns, gate);
    store_quad<Wide>(a.dup + row * a.dup_stride, c, columns, up);
  }
};

}  // namespace

void CudaTraining::activation_backward(const ActivationBackwardArgs& a) {
  const bool is_one = a.x_stride == a.columns && a.dout_stride == a.columns && a.dx_stride == a.columns;
  const bool is_wide = rows_are_wide(a.x, is_one ? 0 : a.x_stride) &&
                       rows_are_wide(a.dout, is_one ? 0 : a.dout_stride) &&
                       rows_are_wide(a.dx, is_one ? 0 : a.dx_stride);
  launch_elementwise(context_, "activation_backward", ActivationBackwardOp{a}, is_one ? 1 : a.rows,
                     is_one ? a.rows * a.columns : a.columns, is_wide);
}

void CudaTraining::gated_activation_backward(const GatedActivationBackwardArgs& a) {
  const bool is_one = a.gate_stride == a.columns && a.up_stride == a.columns && a.dout_stride == a.columns &&
                      a.dgate_stride == a.columns && a.dup_stride == a.columns;
  bool is_wide = rows_are_wide(a.gate, is_one ? 0 : a.gate_stride);
  is_wide = is_wide && rows_are_wide(a.up, is_one ? 0 : a.up_stride);
  is_wide = is_wide && rows_are_wide(a.dout, is_one ? 0 : a.dout_stride);
  is_wide = is_wide && rows_are_wide(a.dgate, is_one ? 0 : a.dgate_stride);
  is_wide = is_wide && rows_are_wide(a.dup, is_one ? 0 : a.dup_stride);
  launch_elementwise(context_, "gated_activation_backward", GatedActivationBackwardOp{a}, is_one ? 1 : a.rows,
                     is_one ? a.rows * a.columns : a.columns, is_wide);
}

}  // namespace pare::cuda
