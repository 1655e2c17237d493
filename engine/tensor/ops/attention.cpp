// attention, attention_training, attention_cached
#include "engine/tensor/ops/checks.h"
#include "engine/tensor/training_ops.h"

namespace pare::ops {
namespace {

void check_shape(const AttentionShape& s) {
  PARE_ASSERT(s.sequences >= 0 && s.query_tokens >= 0 && s.key_tokens >= 0 && s.query_offset >= 0,
              "[attention] {} sequences, {} queries from {}, {} keys", s.sequences, s.query_tokens,
              s.query_offset, s.key_tokens);
  PARE_ASSERT(s.heads > 0 && s.kv_heads > 0 && s.heads % s.kv_heads == 0 && s.head_dim > 0,
              "[attention] {} heads over {} of size {}", s.heads, s.kv_heads, s.head_dim);
  PARE_ASSERT(s.window >= 0 && s.softcap >= 0.0f, "[attention] window {}, softcap {}", s.window, s.softcap);
  // every query sees at least the key at its own position
  PARE_ASSERT(!(s.causal || s.window > 0) || s.query_offset + s.query_tokens <= s.key_tokens,
              "[attention] queries {} to {}, but {} keys", s.query_offset, s.query_offset + s.query_tokens,
              s.key_tokens);
}

void check_query(const char* name, const Tensor& x, const AttentionShape& s) {
  require_activations("attention", name, x);
  PARE_ASSERT(rows_of(x) == s.sequences * s.query_tokens && columns_of(x) == s.heads * s.head_dim,
              "[attention] {} {} for {} x {} queries of {} x {}", name, x.shape().text(), s.sequences,
              s.query_tokens, s.heads, s.head_dim);
}

AttentionArgs arguments(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& s,
                        Tensor& out) {
  return {.q = q.data<float>(),
          .k = k.raw(),
          .v = v.raw(),
          .out = out.mutable_data<float>(),
          .kv_dtype = k.dtype(),
          .sequences = s.sequences,
          .query_tokens = s.query_tokens,
          .key_tokens = s.key_tokens,
          .query_offset = s.query_offset,
          .heads = s.heads,
          .kv_heads = s.kv_heads,
          .head_dim = s.head_dim,
          .q_stride = q.row_stride(),
          .out_stride = out.row_stride(),
          .kv_sequence_stride = 0,
          .kv_head_stride = 0,
          .kv_position_stride = 0,
          .scale = s.scale,
          .softcap = s.softcap,
          .window = s.window,
          .causal = s.causal};
}

void check_devices(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) {
  require_same_device("attention", q, k);
  require_same_device("attention", q, v);
  require_same_device("attention", q, out);
  PARE_ASSERT(k.dtype() == v.dtype() && (k.dtype() == DType::f32 || !k.device().is_host()),
              "[attention] k {}, v {} on {}", dtype_name(k.dtype()), dtype_name(v.dtype()),
              k.device().name());
}

bool is_empty(const AttentionShape& s) {
  return s.sequences == 0 || s.query_tokens == 0;
}

// Keys and values without a cache. log_sum_exp may be null.
void attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape, Tensor& out,
            float* log_sum_exp) {
  check_shape(shape);
  check_query("q", q, shape);
  check_query("out", out, shape);
  check_devices(q, k, v, out);
  for (const Tensor* x : {&k, &v}) {
    PARE_ASSERT(x->shape().rank() >= 1 && rows_of(*x) == shape.sequences * shape.key_tokens &&
                    columns_of(*x) == shape.kv_heads * shape.head_dim,
                "[attention] k or v {} for {} x {} keys of {} x {}", x->shape().text(), shape.sequences,
                shape.key_tokens, shape.kv_heads, shape.head_dim);
  }
  PARE_ASSERT(k.row_stride() == v.row_stride(), "[attention] row strides of k and v: {}, {}", k.row_stride(),
              v.row_stride());
  if (is_empty(shape)) return;
  PARE_ASSERT(shape.key_tokens > 0, "[attention] no keys");
  AttentionArgs args = arguments(q, k, v, shape, out);
  args.kv_sequence_stride = shape.key_tokens * k.row_stride();
  args.kv_head_stride = shape.head_dim;
  args.kv_position_stride = k.row_stride();
  args.log_sum_exp = log_sum_exp;
  backend_for(q.device()).attention(args);
}

}  // namespace

void attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape, Tensor& out) {
  attend(q, k, v, shape, out, nullptr);
}

void attention_training(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                        Tensor& out, Tensor& log_sum_exp) {
  require_vector("attention_training", "log_sum_exp", log_sum_exp, DType::f32,
                 shape.sequences * shape.query_tokens * shape.heads);
  require_same_device("attention_training", q, log_sum_exp);
  attend(q, k, v, shape, out, log_sum_exp.mutable_data<float>());
}

void attention_cached(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                      Tensor& out) {
  check_shape(shape);
  check_query("q", q, shape);
  check_query("out", out, shape);
  check_devices(q, k, v, out);
  for (const Tensor* x : {&k, &v}) {
    PARE_ASSERT(x->shape().rank() == 4 && x->is_contiguous() && x->size(0) == shape.sequences &&
                    x->size(1) == shape.kv_heads && x->size(2) >= shape.key_tokens &&
                    x->size(3) == shape.head_dim,
                "[attention] cache {} for {} sequences of {} x {} keys of {}", x->shape().text(),
                shape.sequences, shape.kv_heads, shape.key_tokens, shape.head_dim);
  }
  require_same_shape("attention", k, v);
  if (is_empty(shape)) return;
  PARE_ASSERT(shape.key_tokens > 0, "[attention] no keys");
  const int64_t capacity = k.size(2);
  AttentionArgs args = arguments(q, k, v, shape, out);
  args.kv_sequence_stride = shape.kv_heads * capacity * shape.head_dim;
  args.kv_head_stride = capacity * shape.head_dim;
  args.kv_position_stride = shape.head_dim;
  backend_for(q.device()).attention(args);
}

void attention_cached(const Tensor& q, KvQuant kv, const KvCodes& k, const KvCodes& v,
                      const AttentionShape& shape, Tensor& out) {
  check_shape(shape);
  check_query("q", q, shape);
  check_query("out", out, shape);
  PARE_ASSERT(!kv.is_none() && shape.head_dim <= kKvHeadDim, "[attention] {} codes for heads of {}",
              kv.name(), shape.head_dim);
  for (const KvCodes* x : {&k, &v}) {
    PARE_ASSERT(x->codes.dtype() == DType::u8 && x->codes.shape().rank() == 4 && x->codes.is_contiguous() &&
                    x->codes.size(0) == shape.sequences && x->codes.size(1) == shape.kv_heads &&
                    x->codes.size(2) >= shape.key_tokens && x->codes.size(3) == kv.row_bytes(shape.head_dim),
                "[attention] codes {} for {} sequences of {} x {} keys of {}", x->codes.shape().text(),
                shape.sequences, shape.kv_heads, shape.key_tokens, shape.head_dim);
    const Shape grid{x->codes.size(0), x->codes.size(1), x->codes.size(2)};
    PARE_ASSERT(x->scales.dtype() == DType::f16 && x->scales.shape() == grid && x->scales.is_contiguous() &&
                    x->zeros.defined() == kv.has_zeros() && (!kv.has_zeros() || x->zeros.shape() == grid),
                "[attention] scales {} for codes {}", x->scales.shape().text(), x->codes.shape().text());
    require_same_device("attention", q, x->codes);
  }
  require_same_shape("attention", k.codes, v.codes);
  require_same_device("attention", q, out);
  if (is_empty(shape)) return;
  PARE_ASSERT(shape.key_tokens > 0, "[attention] no keys");
  const int64_t capacity = k.codes.size(2), row_bytes = k.codes.size(3);
  AttentionArgs args = arguments(q, k.codes, v.codes, shape, out);
  args.kv_dtype = DType::f32;
  args.kv_sequence_stride = shape.kv_heads * capacity * row_bytes;
  args.kv_head_stride = capacity * row_bytes;
  args.kv_position_stride = row_bytes;
  args.kv = kv;
  args.k_scales = k.scales.data<uint16_t>();
  args.v_scales = v.scales.data<uint16_t>();
  args.k_zeros = kv.has_zeros() ? k.zeros.data<uint8_t>() : nullptr;
  args.v_zeros = kv.has_zeros() ? v.zeros.data<uint8_t>() : nullptr;
  args.grid_head_stride = capacity;
  backend_for(q.device()).attention(args);
}

}  // namespace pare::ops
