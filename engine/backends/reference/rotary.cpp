#include "engine/backends/reference/backend_class.h"

namespace pare::reference {

// x[k] = x[k] cos - x[k + r] sin,  x[k + r] = x[k + r] cos + x[k] sin,  r = rotary_dim / 2
void ReferenceBackend::rotary(const RotaryArgs& a) {
  const int64_t half = a.rotary_dim / 2;
  for (int64_t t = 0; t < a.tokens; ++t) {
    const float* cosines = a.cosines + int64_t{a.positions[t]} * half;
    const float* sines = a.sines + int64_t{a.positions[t]} * half;
    for (int64_t h = 0; h < a.heads; ++h) {
      float* x = a.x + t * a.stride + h * a.head_dim;
      for (int64_t k = 0; k < half; ++k) {
        const double low = double(x[k]), high = double(x[k + half]);
        const double cosine = double(cosines[k]), sine = double(sines[k]);
        x[k] = float(low * cosine - high * sine);
        x[k + half] = float(high * cosine + low * sine);
      }
    }
  }
}

}  // namespace pare::reference
