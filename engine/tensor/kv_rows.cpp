// kv_append and kv_round of hosts: their scalar definitions, rows in parallel.
#include <array>
#include <cstring>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/ops.h"
#include "engine/tensor/ops/checks.h"

namespace pare {
namespace {

constexpr int64_t kRowsAtOnce = 16;

}  // namespace

void Backend::kv_append(const KvAppendArgs& a) {
  PARE_ASSERT(!a.kv.is_none() || a.dtype == DType::f32, "[kv_append] {} on a host", dtype_name(a.dtype));
  const int64_t row_bytes = a.kv.row_bytes(a.head_dim);
  parallel_ranges(a.sequences * a.tokens, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t sequence = row / a.tokens, position = a.first_position + row % a.tokens;
      for (int64_t head = 0; head < a.kv_heads; ++head) {
        const float* x = a.rows + row * a.stride + head * a.head_dim;
        const int64_t place = (sequence * a.kv_heads + head) * a.capacity + position;
        if (a.kv.is_none()) {
          std::memcpy(static_cast<float*>(a.cache) + place * a.head_dim, x,
                      size_t(a.head_dim) * sizeof(float));
        } else {
          kv_encode(a.kv, x, a.head_dim, static_cast<uint8_t*>(a.cache) + place * row_bytes, a.scales + place,
                    a.zeros != nullptr ? a.zeros + place : nullptr);
        }
      }
    }
  });
}

void Backend::kv_round(const KvRoundArgs& a) {
  parallel_ranges(a.rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    std::array<uint8_t, size_t{kKvHeadDim}> codes;
    uint16_t scale = 0;
    uint8_t zero = 0;
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t head = 0; head < a.heads; ++head) {
        float* vector = a.x + row * a.stride + head * a.head_dim;
        kv_encode(a.kv, vector, a.head_dim, codes.data(), &scale, &zero);
        kv_decode(a.kv, codes.data(), scale, zero, a.head_dim, vector);
      }
    }
  });
}

namespace ops {
namespace {

KvAppendArgs append_arguments(const Tensor& rows, int64_t tokens, int64_t first_position, const Tensor& cache,
                              int64_t head_dim) {
  require_activations("kv_append", "rows", rows);
  require_same_device("kv_append", rows, cache);
  PARE_ASSERT(cache.shape().rank() == 4 && cache.is_contiguous() && rows_of(rows) == cache.size(0) * tokens &&
                  columns_of(rows) == cache.size(1) * head_dim && first_position >= 0 &&
                  first_position + tokens <= cache.size(2),
              "[kv_append] rows {} at {} of a cache {}", rows.shape().text(), first_position,
              cache.shape().text());
  return {.rows = rows.data<float>(),
          .cache = cache.mutable_raw(),
          .dtype = cache.dtype(),
          .sequences = cache.size(0),
          .tokens = tokens,
          .kv_heads = cache.size(1),
          .head_dim = head_dim,
          .capacity = cache.size(2),
          .first_position = first_position,
          .stride = rows.row_stride()};
}

}  // namespace

void kv_append(const Tensor& rows, int64_t tokens, int64_t first_position, const Tensor& cache) {
  const KvAppendArgs args = append_arguments(rows, tokens, first_position, cache, cache.size(3));
  if (rows.numel() > 0) backend_for(rows.device()).kv_append(args);
}

void kv_append(const Tensor& rows, int64_t tokens, int64_t first_position, KvQuant kv, int64_t head_dim,
               const KvCodes& cache) {
  KvAppendArgs args = append_arguments(rows, tokens, first_position, cache.codes, head_dim);
  PARE_ASSERT(!kv.is_none() && cache.codes.size(3) == kv.row_bytes(head_dim), "[kv_append] {} codes {}",
              kv.name(), cache.codes.shape().text());
  args.kv = kv;
  args.scales = cache.scales.mutable_data<uint16_t>();
  args.zeros = kv.has_zeros() ? cache.zeros.mutable_data<uint8_t>() : nullptr;
  if (rows.numel() > 0) backend_for(rows.device()).kv_append(args);
}

void kv_round(KvQuant kv, Tensor& x, int64_t heads) {
  if (kv.is_none() || x.numel() == 0) return;
  require_activations("kv_round", "x", x);
  backend_for(x.device())
      .kv_round({.x = x.mutable_data<float>(),
                 .rows = rows_of(x),
                 .heads = heads,
                 .head_dim = columns_of(x) / heads,
                 .stride = x.row_stride(),
                 .kv = kv});
}

}  // namespace ops
}  // namespace pare
