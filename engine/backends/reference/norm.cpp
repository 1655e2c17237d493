#include <cmath>

#include "engine/backends/reference/backend_class.h"

namespace pare::reference {

// out[t, c] = x[t, c] * g[c] / sqrt(mean_c(x[t, c]^2) + eps), g = gain, or 1 + gain
void ReferenceBackend::rms_norm(const RmsNormArgs& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    const float* x = a.x + t * a.x_stride;
    float* out = a.out + t * a.out_stride;
    double squares = 0.0;
    for (int64_t c = 0; c < a.channels; ++c) squares += double(x[c]) * double(x[c]);
    const double inverse = 1.0 / std::sqrt(squares / double(a.channels) + double(a.eps));
    for (int64_t c = 0; c < a.channels; ++c) {
      const double gain = double(a.gain[c]) + (a.gain_plus_one ? 1.0 : 0.0);
      out[c] = float(double(x[c]) * inverse * gain);
    }
  }
}

// out = (x - mean) / sqrt(variance + eps) * gain + bias, biased variance
void ReferenceBackend::layer_norm(const LayerNormArgs& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    const float* x = a.x + t * a.x_stride;
    float* out = a.out + t * a.out_stride;
    double sum = 0.0;
    for (int64_t c = 0; c < a.channels; ++c) sum += double(x[c]);
    const double mean = sum / double(a.channels);
    double squares = 0.0;
    for (int64_t c = 0; c < a.channels; ++c) squares += (double(x[c]) - mean) * (double(x[c]) - mean);
    const double inverse = 1.0 / std::sqrt(squares / double(a.channels) + double(a.eps));
    for (int64_t c = 0; c < a.channels; ++c) {
      const double bias = a.bias != nullptr ? double(a.bias[c]) : 0.0;
      out[c] = float((double(x[c]) - mean) * inverse * double(a.gain[c]) + bias);
    }
  }
}

}  // namespace pare::reference
