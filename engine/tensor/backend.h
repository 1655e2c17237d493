// engine/tensor/backend.h: the catalogue of operations on one device.
//
// One plain struct per operation. Arguments arrive checked by ops.h: shapes agree, nothing is empty, pointers
// belong to the device. No operation allocates, synchronises or reads back; outputs and workspace come from
// the caller. A backend must match `reference` within the bound of docs/numerics.md. Activations are float;
// "stride" is the distance in elements between rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/tensor/device.h"
#include "engine/tensor/dtype.h"
#include "engine/tensor/host_range.h"
#include "engine/tensor/kv_quant.h"
#include "engine/tensor/packed_layout.h"

namespace pare {

enum class Activation : uint8_t {
  identity,
  relu,
  silu,        // x / (1 + exp(-x))
  gelu,        // x/2 (1 + erf(x / sqrt 2))
  gelu_tanh,   // x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
  quick_gelu,  // x / (1 + exp(-1.702 x))
};

// out[t, c] = x[t, c] * g[c] / sqrt(mean_c(x[t, c]^2) + eps), g = gain, or 1 + gain
struct RmsNormArgs {
  const float* x;     // [tokens, channels]
  const float* gain;  // [channels]
  float* out;         // [tokens, channels], may alias x
  int64_t tokens, channels, x_stride, out_stride;
  float eps;
  bool gain_plus_one;
};

// out = (x - mean) / sqrt(variance + eps) * gain + bias, biased variance
struct LayerNormArgs {
  const float* x;     // [tokens, channels]
  const float* gain;  // [channels]
  const float* bias;  // [channels] or null
  float* out;         // [tokens, channels], may alias x
  int64_t tokens, channels, x_stride, out_stride;
  float eps;
};

// Rotates the first rotary_dim components of every head in place, half-split form:
//   x[k] = x[k] cos - x[k + r] sin,  x[k + r] = x[k + r] cos + x[k] sin,  r = rotary_dim / 2
struct RotaryArgs {
  float* x;                  // [tokens, heads * head_dim]
  const int32_t* positions;  // [tokens], below table_positions
  const float* cosines;      // [table_positions, rotary_dim / 2]
  const float* sines;
  int64_t tokens, heads, head_dim, rotary_dim, stride;
};

// out[s, i, h, :] = sum_j softmax_j(scale * <q[s, i, h], k[s, j, h']>) v[s, j, h'], h' = h / (heads /
// kv_heads). Query i of a sequence has position query_offset + i, keys have positions 0 .. key_tokens - 1.
// causal: j <= position; window > 0: also j > position - window. softcap > 0: scores become softcap *
// tanh(score / softcap) before the mask.
struct AttentionArgs {
  const float* q;  // [sequences * query_tokens, heads * head_dim], row stride q_stride
  const void* k;   // element (s, h', j, d) at s * kv_sequence_stride + h' * kv_head_stride + j *
                   // kv_position_stride + d
  const void* v;
  float* out;  // [sequences * query_tokens, heads * head_dim], row stride out_stride; must not alias q, k, v
  DType kv_dtype;  // f32 on hosts
  int64_t sequences, query_tokens, key_tokens, query_offset;
  int64_t heads, kv_heads, head_dim;
  int64_t q_stride, out_stride;
  int64_t kv_sequence_stride, kv_head_stride, kv_position_stride;  // in elements
  float scale, softcap;
  int64_t window;
  bool causal;
  // Keys and values as codes (kv_quant.h): k and v are u8, the kv strides count bytes, and the grid of key
  // (s, h', j) stands at s * kv_heads * grid_head_stride + h' * grid_head_stride + j. head_dim is at most
  // kKvHeadDim.
  KvQuant kv = {};
  const uint16_t* k_scales = nullptr;
  const uint16_t* v_scales = nullptr;
  const uint8_t* k_zeros = nullptr;  // null for int8
  const uint8_t* v_zeros = nullptr;
  int64_t grid_head_stride = 0;
  // For training: the log-sum-exp of each row of scores, [sequences * query_tokens, heads], -inf for a row
  // that sees no key. Null: not wanted.
  float* log_sum_exp = nullptr;
};

// out[m, n] (+)= sum_k x[m, k] * weight[n, k] + bias[n]
struct MatmulArgs {
  const float* x;      // [m, k]
  const void* weight;  // [n, k], contiguous
  DType weight_dtype;  // f32, bf16 or f16
  const float* bias;   // [n] or null
  float* out;          // [m, n]; must not alias x
  int64_t m, n, k, x_stride, out_stride;
  bool accumulate;  // add to out instead of overwriting it
  void* workspace;  // matmul_workspace_bytes(m, n, k) bytes, 64-byte aligned
};

// The same with codes.
struct PackedMatmulArgs {
  const float* x;  // [m, k]
  const PackedMatrix* weight;
  const float* bias;
  float* out;
  int64_t m, n, k, x_stride, out_stride;
  bool accumulate;
  void* workspace;
};

// out[t, :] (+)= scale * table[ids[t], :]
struct EmbeddingArgs {
  const int32_t* ids;  // [tokens], below rows
  const void* table;   // [rows, channels]
  DType table_dtype;   // f32, bf16 or f16
  float* out;          // [tokens, channels]
  int64_t tokens, rows, channels, out_stride;
  float scale;
  bool accumulate;
};

// out[t, :] (+)= scale * dequantize(table)[ids[t], :]
struct QuantizedEmbeddingArgs {
  const int32_t* ids;
  const QuantizedTensor* table;
  float* out;
  int64_t tokens, out_stride;
  float scale;
  bool accumulate;
};

// out = f(x), elementwise; may alias
struct ActivationArgs {
  const float* x;
  float* out;
  int64_t rows, columns, x_stride, out_stride;
  Activation kind;
};

// out = f(gate) * up, elementwise; out may alias either
struct GatedActivationArgs {
  const float* gate;
  const float* up;
  float* out;
  int64_t rows, columns, gate_stride, up_stride, out_stride;
  Activation kind;
};

// out = x + y; may alias
struct AddArgs {
  const float* x;
  const float* y;
  float* out;
  int64_t count;
};

// x = cap * tanh(x / cap), in place
struct SoftcapArgs {
  float* x;
  int64_t count;
  float cap;
};

// out[r, :] = softmax(x[r, :]); may alias
struct SoftmaxArgs {
  const float* x;
  float* out;
  int64_t rows, columns, x_stride, out_stride;
};

// Per row: log-sum-exp (double), negative log-likelihood of the target, best id (smallest on ties).
struct CrossEntropyArgs {
  const float* logits;     // [rows, columns]
  const int32_t* targets;  // [rows]; a negative target gives nll 0
  double* log_sum_exp;     // [rows]
  double* nll;             // [rows], in nats
  int32_t* best;           // [rows]
  int64_t rows, columns, stride;
};

// kl[r] = sum_v p_v (log p_v - log q_v), p = softmax(logits_p[r]), q = softmax(logits_q[r]); in nats
struct DivergenceArgs {
  const float* logits_p;  // [rows, columns], the reference model
  const float* logits_q;  // [rows, columns]
  const double* log_sum_exp_p;
  const double* log_sum_exp_q;
  double* kl;  // [rows]
  int64_t rows, columns, p_stride, q_stride;
};

// What is known of a sparse matrix before it is read.
struct SparseSummary {
  SparsityPattern pattern;
  int64_t out = 0, in = 0;
  double density = 1.0;           // share of weights that are kept
  DType value_dtype = DType::u8;  // f32, bf16 or f16; u8: codes of `scheme`
  std::optional<QuantScheme> scheme{};
  bool rounds_inputs = false;  // the product is one of integers

  static SparseSummary of(const SparseTensor& weight);
};

// Whether a backend multiplies the sparse form of a matrix, or wants it expanded to the dense form of the
// same values or scheme because that is faster.
struct KernelChoice {
  bool is_sparse;
  std::string reason;  // "sparse kernel 1.31x of dense"
};

// Rows of keys or values to their places in a cache:
//   cache[s, h, first_position + i, :] = rows[s * tokens + i, h * head_dim ..]
// as floats (rounded to `dtype`), or as codes of `kv` with one grid per row and head (kv_quant.h).
struct KvAppendArgs {
  const float* rows;  // [sequences * tokens, kv_heads * head_dim]
  void* cache;        // [sequences, kv_heads, capacity, head_dim] of dtype, or codes [.., row_bytes]
  DType dtype;        // f32; on a GPU also bf16. Ignored with codes
  int64_t sequences, tokens, kv_heads, head_dim, capacity, first_position, stride;
  KvQuant kv = {};
  uint16_t* scales = nullptr;  // f16 [sequences, kv_heads, capacity]
  uint8_t* zeros = nullptr;    // the same; null for int8
};

// x = decode(encode(x)) for rows of heads, in place (kv_round of kv_quant.h).
struct KvRoundArgs {
  float* x;  // [rows, heads * head_dim]
  int64_t rows, heads, head_dim, stride;
  KvQuant kv;
};

// out[r, 0 .. width) = x[r, 0 .. width), bytes; rows apart by the strides (in bytes). No overlap.
struct CopyRowsArgs {
  const void* x;
  void* out;
  int64_t rows, width, x_stride, out_stride;
};

// out[i] = first + i % period: positions of the rows of equally long sequences.
struct PositionsArgs {
  int32_t* out;  // [count]
  int64_t count, period, first;
};

// Rows by number, as experts take them: out[i, :] = x[index[i] / divisor, :].
struct GatherRowsArgs {
  const float* x;
  const int32_t* index;  // [count]
  float* out;            // [count, channels]
  int64_t count, channels, divisor, x_stride, out_stride;
};

// out[index[i] / divisor, :] += scales[index[i]] * x[i, :]; no two i of one call have the same target row.
struct ScatterRowsArgs {
  const float* x;        // [count, channels]
  const int32_t* index;  // [count]
  const float* scales;
  float* out;
  int64_t count, channels, divisor, x_stride, out_stride;
};

class TrainingBackend;       // training_backend.h
class StatisticsBackend;     // statistics_backend.h
class DecodeBackend;         // decode_backend.h
class SelectionBackend;      // selection_backend.h
class QuantizedRowsBackend;  // quantized_rows_backend.h

class Backend {
 public:
  virtual ~Backend() = default;
  virtual Device device() const = 0;
  virtual std::string description() const = 0;  // "cpu: avx512, 2 threads"

  virtual Result<std::shared_ptr<Storage>> allocate(size_t bytes) = 0;

  // Bytes between host memory and the device's, in the order of the operations. upload(): `from` may change
  // as soon as it returns. download(): waits for everything before it. Error 6 of an upload, download or
  // finish(): that of the first operation since the last of them that the device refused or broke off, with
  // its name. Hosts copy.
  virtual Status upload(void* to, const void* from, size_t bytes);
  virtual Status download(void* to, const void* from, size_t bytes);
  // Hint: these ranges are read next, in this order. What an earlier call named and nobody has taken is
  // forgotten, with an empty list everything. A device with memory of its own brings them there beside its
  // work, as far as there is room, and upload() takes from that what lies within one range; hosts have pages
  // of mapped files read. Changes no result, never fails for want of room.
  virtual void prefetch(std::span<const HostRange> ranges);
  virtual Status finish();                      // waits for everything asked so far
  virtual void zero(void* to, size_t bytes);    // memory of the device
  virtual void copy_rows(const CopyRowsArgs&);  // both sides on the device
  virtual void positions(const PositionsArgs&);
  virtual void gather_rows(const GatherRowsArgs&);
  virtual void scatter_rows(const ScatterRowsArgs&);
  // How far operands of products are rounded, as a share of their size: 0 for float products, 2^-8 where both
  // become bf16. Sums are always float. The bounds of tolerance.h grow by it.
  virtual double operand_roundoff() const { return 0.0; }
  // In which form a cache of keys and values is fastest here: f32 or bf16.
  virtual DType kv_dtype() const { return DType::f32; }

  virtual void rms_norm(const RmsNormArgs&) = 0;
  virtual void layer_norm(const LayerNormArgs&) = 0;
  virtual void rotary(const RotaryArgs&) = 0;
  virtual void attention(const AttentionArgs&) = 0;
  virtual void kv_append(const KvAppendArgs&);  // hosts: the scalar definition, rows in parallel
  virtual void kv_round(const KvRoundArgs&);
  virtual void activation(const ActivationArgs&) = 0;
  virtual void gated_activation(const GatedActivationArgs&) = 0;
  virtual void add(const AddArgs&) = 0;
  virtual void softcap(const SoftcapArgs&) = 0;
  virtual void softmax(const SoftmaxArgs&) = 0;
  virtual void embedding(const EmbeddingArgs&) = 0;
  virtual void quantized_embedding(const QuantizedEmbeddingArgs&) = 0;
  virtual void cross_entropy(const CrossEntropyArgs&) = 0;
  virtual void divergence(const DivergenceArgs&) = 0;

  virtual size_t matmul_workspace_bytes(int64_t m, int64_t n, int64_t k) const = 0;
  virtual void matmul(const MatmulArgs&) = 0;

  // Repacks codes for the kernel that the table will choose; exit 4 for a scheme without a kernel, 6 without
  // memory. `reserve_only` layouts ("canonical") keep the tensor itself.
  virtual Result<PackedMatrix> prepack(std::shared_ptr<const QuantizedTensor> weight) = 0;
  // The inverse of prepack.
  virtual Result<QuantizedTensor> unpack(const PackedMatrix& packed) = 0;

  // The same for sparse matrices. The choice follows from the summary, the backend's level and its table of
  // measured speeds; the other two work whatever it says. Error of prepack_sparse: exit 4 for codes without a
  // sparse kernel (the caller expands them), 6.
  virtual KernelChoice choose_sparse(const SparseSummary& weight) const = 0;
  virtual Result<PackedMatrix> prepack_sparse(std::shared_ptr<const SparseTensor> weight) = 0;
  virtual Result<SparseTensor> unpack_sparse(const PackedMatrix& packed) = 0;

  virtual size_t packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const = 0;
  virtual void packed_matmul(const PackedMatmulArgs&) = 0;

  // The operations of training; null where this device does not train.
  virtual TrainingBackend* training() { return nullptr; }
  // Statistics and solvers of calibration; null where the host's own code does them.
  virtual StatisticsBackend* statistics() { return nullptr; }
  // Fused decode steps that replay as one; null where a step is made of the operations above.
  virtual DecodeBackend* decoding() { return nullptr; }
  // Choosing which weights go; null where the host's own code does it.
  virtual SelectionBackend* selection() { return nullptr; }
  // Rows rounded once for several products; null where every product rounds for itself.
  virtual QuantizedRowsBackend* quantized_rows() { return nullptr; }
};

// The installed backends. Installing is done by cli (and by tests); the last one for a device wins.
void install_backend(std::unique_ptr<Backend> backend);
Backend& backend_for(Device device);  // asserts that one is installed
bool has_backend(Device device);
std::vector<Backend*> installed_backends();  // in order of installation

}  // namespace pare
