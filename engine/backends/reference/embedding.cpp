#include <algorithm>
#include <array>

#include "engine/backends/reference/backend_class.h"

namespace pare::reference {

// out[t, :] (+)= scale * table[ids[t], :]
void ReferenceBackend::embedding(const EmbeddingArgs& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    float* out = a.out + t * a.out_stride;
    for (int64_t c = 0; c < a.channels; ++c) {
      const double value = double(a.scale) * load(a.table, a.table_dtype, int64_t{a.ids[t]} * a.channels + c);
      out[c] = float(a.accumulate ? double(out[c]) + value : value);
    }
  }
}

// out[t, :] (+)= scale * dequantize(table)[ids[t], :]
void ReferenceBackend::quantized_embedding(const QuantizedEmbeddingArgs& a) {
  constexpr int64_t kSlice = 256;  // weights dequantized at a time
  std::array<float, size_t{kSlice}> weights;
  const int64_t channels = a.table->in();
  for (int64_t t = 0; t < a.tokens; ++t) {
    float* out = a.out + t * a.out_stride;
    for (int64_t begin = 0; begin < channels; begin += kSlice) {
      const int64_t end = std::min(channels, begin + kSlice);
      a.table->dequantize_slice(a.ids[t], begin, end, weights.data());
      for (int64_t c = begin; c < end; ++c) {
        const double value = double(a.scale) * double(weights[size_t(c - begin)]);
        out[c] = float(a.accumulate ? double(out[c]) + value : value);
      }
    }
  }
}

}  // namespace pare::reference
