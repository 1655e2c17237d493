// engine/tensor/ops.h: the only callers of Backend. Each function checks shapes, dtypes and devices (a
// mismatch is our bug: PARE_ASSERT), handles empty tensors, and hands over. Formulas stand in backend.h.
//
// Activations are f32 matrices [tokens, channels] (leading axes are flattened). Outputs are given, never
// allocated.
#pragma once

#include "engine/tensor/backend.h"
#include "engine/tensor/tensor.h"
#include "engine/tensor/workspace.h"

namespace pare::ops {

void rms_norm(const Tensor& x, const Tensor& gain, float eps, bool gain_plus_one, Tensor& out);
void layer_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, float eps,
                Tensor& out);  // bias may be undefined

// x [tokens, heads * head_dim]; positions i32 [tokens]; cosines, sines f32 [positions, rotary_dim / 2].
void rotary(Tensor& x, const Tensor& positions, const Tensor& cosines, const Tensor& sines, int64_t heads);

struct AttentionShape {
  int64_t sequences, query_tokens, key_tokens, query_offset;
  int64_t heads, kv_heads, head_dim;
  float scale;
  float softcap = 0.0f;
  int64_t window = 0;
  bool causal = true;
};
// k, v as matrices [sequences * key_tokens, kv_heads * head_dim] (no cache).
void attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape, Tensor& out);
// k, v from a cache [sequences, kv_heads, capacity, head_dim], capacity >= key_tokens.
void attention_cached(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                      Tensor& out);
// The same with a cache of codes; the same bytes as with a cache of what they stand for.
void attention_cached(const Tensor& q, KvQuant kv, const KvCodes& k, const KvCodes& v,
                      const AttentionShape& shape, Tensor& out);

// rows [sequences * tokens, kv_heads * head_dim] to their places in a cache [sequences, kv_heads, capacity,
// head_dim].
void kv_append(const Tensor& rows, int64_t tokens, int64_t first_position, const Tensor& cache);
void kv_append(const Tensor& rows, int64_t tokens, int64_t first_position, KvQuant kv, int64_t head_dim,
               const KvCodes& cache);
// x = decode(encode(x)) for rows [rows, heads * head_dim], in place.
void kv_round(KvQuant kv, Tensor& x, int64_t heads);

// out i32 [count]: first + i % period
void positions(int64_t first, int64_t period, Tensor& out);
// index i32 [count] on the device of x: out[i] = x[index[i] / divisor]; out[index[i] / divisor] +=
// scales[index[i]] x[i].
void gather_rows(const Tensor& x, const Tensor& index, int64_t divisor, Tensor& out);
void scatter_rows(const Tensor& x, const Tensor& index, const Tensor& scales, int64_t divisor, Tensor& out);

void activation(Activation kind, const Tensor& x, Tensor& out);
void gated_activation(Activation kind, const Tensor& gate, const Tensor& up, Tensor& out);
void add(const Tensor& x, const Tensor& y, Tensor& out);
void softcap(Tensor& x, float cap);
void softmax(const Tensor& x, Tensor& out);

// ids i32 [tokens]; table [rows, channels].
void embedding(const Tensor& ids, const Tensor& table, float scale, bool accumulate, Tensor& out);
void embedding(const Tensor& ids, const QuantizedTensor& table, float scale, bool accumulate, Tensor& out);

// x [m, k], weight [n, k], bias f32 [n] or undefined, out [m, n].
void matmul(const Tensor& x, const Tensor& weight, const Tensor& bias, bool accumulate, Tensor& out,
            Workspace& workspace);
void matmul(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, bool accumulate, Tensor& out,
            Workspace& workspace);
// The same with rows that were rounded once (quantized_rows_backend.h), for this weight or for one that
// rounds alike. Where a device has no such products, reads_rounded() is false of every weight.
struct RoundedRows {
  Tensor bytes;  // u8, opaque; taken from the caller's workspace
  int64_t rows = 0;
  bool defined() const { return bytes.defined(); }
};
bool reads_rounded(Device device, const PackedMatrix& weight);
bool rounds_alike(Device device, const PackedMatrix& a, const PackedMatrix& b);
size_t rounded_rows_bytes(Device device, const PackedMatrix& weight, int64_t rows);  // of the workspace
RoundedRows round_rows(const Tensor& x, const PackedMatrix& weight, Workspace& workspace);
// A norm and the rounding of its result in one; the result itself is written to nobody.
RoundedRows rms_norm_rounded(const Tensor& x, const Tensor& gain, float eps, bool gain_plus_one,
                             const PackedMatrix& weight, Workspace& workspace);
RoundedRows layer_norm_rounded(const Tensor& x, const Tensor& gain, const Tensor& bias, float eps,
                               const PackedMatrix& weight, Workspace& workspace);
void matmul(const RoundedRows& x, const PackedMatrix& weight, const Tensor& bias, bool accumulate,
            Tensor& out);
size_t matmul_workspace_bytes(Device device, int64_t m, int64_t n, int64_t k);
size_t matmul_workspace_bytes(Device device, const PackedMatrix& weight, int64_t m);

// logits [rows, columns]; targets i32 [rows]; log_sum_exp, nll f64 [rows]; best i32 [rows].
void cross_entropy(const Tensor& logits, const Tensor& targets, Tensor& log_sum_exp, Tensor& nll,
                   Tensor& best);
void divergence(const Tensor& logits_p, const Tensor& logits_q, const Tensor& log_sum_exp_p,
                const Tensor& log_sum_exp_q, Tensor& kl);

}  // namespace pare::ops
