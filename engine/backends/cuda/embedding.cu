// embedding, quantized_embedding: rows of a table, one quad per thread (quads.h).
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/quads.h"
#include "engine/backends/cuda/quantized_decode.h"

namespace pare::cuda {
namespace {

// out (+)= scale * value
template <bool Wide>
__device__ __forceinline__ void put(float* out, int64_t c, int64_t columns, Quad value, float scale,
                                    bool accumulate) {
  Quad before{};
  if (accumulate) before = load_quad<Wide>(out, c, columns);
#pragma unroll
  for (int j = 0; j < kQuad; ++j) {
    value.v[j] = accumulate ? fmaf(scale, value.v[j], before.v[j]) : scale * value.v[j];
  }
  store_quad<Wide>(out, c, columns, value);
}

template <typename T>
struct EmbeddingOp {
  const int32_t* ids;
  const T* table;
  float* out;
  int64_t out_stride;
  float scale;
  bool accumulate;

  template <bool Wide>
  __device__ void run(int64_t token, int64_t c, int64_t channels) const {
    const Quad value = load_quad<Wide>(table + int64_t(ids[token]) * channels, c, channels);
    put<Wide>(out + token * out_stride, c, channels, value, scale, accumulate);
  }
};

struct QuantizedEmbeddingOp {
  const int32_t* ids;
  QuantizedView table;
  float* out;
  int64_t out_stride;
  float scale;
  bool accumulate;

  template <bool Wide>
  __device__ void run(int64_t token, int64_t c, int64_t channels) const {
    Quad value{};
    table.weights_at(ids[token], c, inside_of(c, channels), value.v);
    put<Wide>(out + token * out_stride, c, channels, value, scale, accumulate);
  }
};

template <typename T>
void launch_embedding(Context& context, const EmbeddingArgs& a) {
  const T* table = static_cast<const T*>(a.table);
  const EmbeddingOp<T> op{a.ids, table, a.out, a.out_stride, a.scale, a.accumulate};
  const bool is_wide = rows_are_wide(table, a.channels) && rows_are_wide(a.out, a.out_stride);
  launch_elementwise(context, "embedding", op, a.tokens, a.channels, is_wide);
}

}  // namespace

void CudaBackend::embedding(const EmbeddingArgs& a) {
  switch (a.table_dtype) {
    case DType::bf16:
      return launch_embedding<__nv_bfloat16>(*context_, a);
    case DType::f16:
      return launch_embedding<__half>(*context_, a);
    default:
      return launch_embedding<float>(*context_, a);
  }
}

void CudaBackend::quantized_embedding(const QuantizedEmbeddingArgs& a) {
  const QuantizedEmbeddingOp op{a.ids,       QuantizedView::of(*a.table), a.out, a.out_stride, a.scale,
                                a.accumulate};
  launch_elementwise(*context_, "quantized_embedding", op, a.tokens, a.table->in(),
                     rows_are_wide(a.out, a.out_stride));
}

}  // namespace pare::cuda
