// activation, gated_activation, add, softcap, embedding
#include <algorithm>

#include "engine/backends/check/backend_class.h"
#include "engine/tensor/tolerance.h"

namespace pare::check {

void CheckBackend::activation(const ActivationArgs& a) {
  const Matrix x = Matrix::copy_of(a.x, a.rows, a.columns, a.x_stride);
  Matrix want(a.rows, a.columns);
  ActivationArgs oracle = a;
  oracle.out = want.data();
  oracle.out_stride = a.columns;
  oracle_.activation(oracle);
  tested_.activation(a);
  compare(subject("activation", "f32"), a.out, a.out_stride, want,
          [&](int64_t r, int64_t c) { return tolerance::activation(a.kind, double(x.at(r, c))); });
}

void CheckBackend::gated_activation(const GatedActivationArgs& a) {
  const Matrix gate = Matrix::copy_of(a.gate, a.rows, a.columns, a.gate_stride);
  const Matrix up = Matrix::copy_of(a.up, a.rows, a.columns, a.up_stride);
  Matrix want(a.rows, a.columns);
  GatedActivationArgs oracle = a;
  oracle.out = want.data();
  oracle.out_stride = a.columns;
  oracle_.gated_activation(oracle);
  tested_.gated_activation(a);
  compare(subject("gated_activation", "f32"), a.out, a.out_stride, want, [&](int64_t r, int64_t c) {
    const double factor = std::abs(double(up.at(r, c)));
    return tolerance::activation(a.kind, double(gate.at(r, c))) * factor +
           tolerance::embedding(std::abs(double(want.at(r, c))));
  });
}

void CheckBackend::add(const AddArgs& a) {
  Matrix want(1, a.count);
  AddArgs oracle = a;
  oracle.out = want.data();
  oracle_.add(oracle);
  tested_.add(a);
  compare(subject("add", "f32"), a.out, a.count, want, [](int64_t, int64_t) { return 0.0; });
}

void CheckBackend::softcap(const SoftcapArgs& a) {
  Matrix want = Matrix::copy_of(a.x, 1, a.count, a.count);
  SoftcapArgs oracle = a;
  oracle.x = want.data();
  oracle_.softcap(oracle);
  tested_.softcap(a);
  compare(subject("softcap", "f32"), a.x, a.count, want,
          [&](int64_t, int64_t) { return tolerance::softcap(double(a.cap)); });
}

void CheckBackend::embedding(const EmbeddingArgs& a) {
  const Matrix before = Matrix::copy_of(a.out, a.tokens, a.channels, a.out_stride);
  Matrix want = before;
  EmbeddingArgs oracle = a;
  oracle.out = want.data();
  oracle.out_stride = a.channels;
  oracle_.embedding(oracle);
  tested_.embedding(a);
  const bool copies = !a.accumulate && a.scale == 1.0f;
  compare(subject("embedding", std::string(dtype_name(a.table_dtype)) + " table"), a.out, a.out_stride, want,
          [&](int64_t t, int64_t c) {
            if (copies) return 0.0;
            const double previous = a.accumulate ? std::abs(double(before.at(t, c))) : 0.0;
            return tolerance::embedding(2.0 * previous + std::abs(double(want.at(t, c))));
          });
}

void CheckBackend::quantized_embedding(const QuantizedEmbeddingArgs& a) {
  const int64_t channels = a.table->in();
  const Matrix before = Matrix::copy_of(a.out, a.tokens, channels, a.out_stride);
  Matrix want = before;
  QuantizedEmbeddingArgs oracle = a;
  oracle.out = want.data();
  oracle.out_stride = channels;
  oracle_.quantized_embedding(oracle);
  tested_.quantized_embedding(a);
  const bool copies = !a.accumulate && a.scale == 1.0f;
  compare(subject("quantized_embedding", a.table->scheme.text()), a.out, a.out_stride, want,
          [&](int64_t t, int64_t c) {
            if (copies) return 0.0;
            const double previous = a.accumulate ? std::abs(double(before.at(t, c))) : 0.0;
            return tolerance::embedding(2.0 * previous + std::abs(double(want.at(t, c))));
          });
}

}  // namespace pare::check
