#include <algorithm>

#include "engine/backends/check/backend_class.h"
#include "engine/tensor/tolerance.h"

namespace pare::check {

void CheckBackend::rms_norm(const RmsNormArgs& a) {
  Matrix want(a.tokens, a.channels);
  RmsNormArgs oracle = a;
  oracle.out = want.data();
  oracle.out_stride = a.channels;
  oracle_.rms_norm(oracle);
  tested_.rms_norm(a);
  compare(subject("rms_norm", "f32"), a.out, a.out_stride, want,
          [&](int64_t t, int64_t c) { return tolerance::rms_norm(a.channels, double(want.at(t, c))); });
}

void CheckBackend::layer_norm(const LayerNormArgs& a) {
  const Matrix x = Matrix::copy_of(a.x, a.tokens, a.channels, a.x_stride);
  Matrix want(a.tokens, a.channels);
  LayerNormArgs oracle = a;
  oracle.out = want.data();
  oracle.out_stride = a.channels;
  oracle_.layer_norm(oracle);
  tested_.layer_norm(a);

  std::vector<double> means, deviations, largest;
  for (int64_t t = 0; t < a.tokens; ++t) {
    double sum = 0.0, squares = 0.0, high = 0.0;
    for (int64_t c = 0; c < a.channels; ++c) sum += double(x.at(t, c));
    const double mean = sum / double(a.channels);
    for (int64_t c = 0; c < a.channels; ++c) {
      squares += (double(x.at(t, c)) - mean) * (double(x.at(t, c)) - mean);
      high = std::max(high, std::abs(double(x.at(t, c))));
    }
    means.push_back(mean);
    deviations.push_back(std::sqrt(squares / double(a.channels) + double(a.eps)));
    largest.push_back(high);
  }
  compare(subject("layer_norm", "f32"), a.out, a.out_stride, want, [&](int64_t t, int64_t c) {
    const auto row = size_t(t);
    const double normal = (double(x.at(t, c)) - means[row]) / deviations[row];
    return tolerance::layer_norm(a.channels, normal, largest[row], deviations[row], double(a.gain[c]),
                                 a.bias != nullptr ? double(a.bias[c]) : 0.0);
  });
}

void CheckBackend::rotary(const RotaryArgs& a) {
  const int64_t columns = a.heads * a.head_dim, half = a.rotary_dim / 2;
  const Matrix before = Matrix::copy_of(a.x, a.tokens, columns, a.stride);
  Matrix want = before;
  RotaryArgs oracle = a;
  oracle.x = want.data();
  oracle.stride = columns;
  oracle_.rotary(oracle);
  tested_.rotary(a);
  compare(subject("rotary", "f32"), a.x, a.stride, want, [&](int64_t t, int64_t c) {
    const int64_t d = c % a.head_dim;
    if (d >= a.rotary_dim) return 0.0;  // passes through
    const int64_t k = d % half;
    const int64_t partner = c + (d < half ? half : -half);
    const int64_t entry = int64_t{a.positions[t]} * half + k;
    const double magnitude = std::abs(double(before.at(t, c)) * double(a.cosines[entry])) +
                             std::abs(double(before.at(t, partner)) * double(a.sines[entry]));
    return 2.0 * tolerance::embedding(magnitude);  // two products and a sum
  });
}

}  // namespace pare::check
