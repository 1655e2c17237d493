#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "engine/backends/reference/backend_class.h"
#include "engine/backends/reference/decode_class.h"
#include "engine/backends/reference/reference_backend.h"

namespace pare {

std::unique_ptr<DecodeBackend> make_reference_decode() {
  return std::make_unique<reference::ReferenceDecode>();
}

namespace reference {
namespace {

struct HostGraph final : DecodeGraph {
  std::vector<std::function<void()>> work;
  int64_t kernels() const override { return int64_t(work.size()); }
};

struct HostNumbers final : DecodePinned {
  std::vector<int32_t> numbers;
  int32_t* data() const override { return const_cast<int32_t*>(numbers.data()); }
};

// One head in place: norm, then rotation.
void finish_head(const DecodeHeadsArgs& a, const float* gain, int64_t position, float* x) {
  const int64_t dim = a.head_dim;
  if (a.norm != DecodeNorm::Kind::none) {
    double squares = 0.0;
    for (int64_t d = 0; d < dim; ++d) squares += double(x[d]) * double(x[d]);
    const double inverse = 1.0 / std::sqrt(squares / double(dim) + double(a.eps));
    const double plus = a.norm == DecodeNorm::Kind::rms_plus_one ? 1.0 : 0.0;
    for (int64_t d = 0; d < dim; ++d) x[d] = float(double(x[d]) * inverse * (double(gain[d]) + plus));
  }
  if (a.cosines == nullptr) return;
  const int64_t half = a.rotary_dim / 2;
  for (int64_t k = 0; k < half; ++k) {
    const double low = double(x[k]), high = double(x[k + half]);
    const double cosine = double(a.cosines[position * half + k]), sine = double(a.sines[position * half + k]);
    x[k] = float(low * cosine - high * sine);
    x[k + half] = float(high * cosine + low * sine);
  }
}

// A key or value to its place: row `index` of [sequences * kv_heads * capacity].
void store(const DecodeCache& cache, bool is_key, const float* x, int64_t head_dim, int64_t index) {
  void* data = is_key ? cache.keys : cache.values;
  if (!cache.kv.is_none()) {
    uint8_t* zeros = is_key ? cache.key_zeros : cache.value_zeros;
    uint16_t* scales = is_key ? cache.key_scales : cache.value_scales;
    kv_encode(cache.kv, x, head_dim, static_cast<uint8_t*>(data) + index * cache.kv.row_bytes(head_dim),
              scales + index, zeros != nullptr ? zeros + index : nullptr);
    return;
  }
  for (int64_t d = 0; d < head_dim; ++d) {
    if (cache.dtype == DType::f32) {
      static_cast<float*>(data)[index * head_dim + d] = x[d];
    } else {
      static_cast<uint16_t*>(data)[index * head_dim + d] = float_to_bf16(x[d]);
    }
  }
}

}  // namespace

ReferenceDecode::ReferenceDecode() : backend_(make_reference_backend()) {}
ReferenceDecode::~ReferenceDecode() = default;

std::string ReferenceDecode::why_not_fused(const DecodeMatrix*, int, int64_t rows) const {
  return rows <= kDecodeRows ? "" : "too many rows";
}

void ReferenceDecode::submit(std::function<void()> work) {
  if (is_capturing_) {
    recorded_.push_back(std::move(work));
  } else {
    work();
  }
}

void ReferenceDecode::embed(const DecodeEmbedArgs& a) {
  submit([a] {
    for (int64_t r = 0; r < a.rows; ++r) {
      for (int64_t c = 0; c < a.channels; ++c) {
        float& out = a.hidden[r * a.channels + c];
        double sum = a.table != nullptr
                         ? double(a.scale) * load(a.table, a.table_dtype, int64_t{a.ids[r]} * a.channels + c)
                         : double(out);
        if (a.position_table != nullptr)
          sum += load(a.position_table, a.position_dtype, int64_t{a.positions[r]} * a.channels + c);
        out = float(sum);
      }
    }
  });
}

void finish_heads(const DecodeHeadsArgs& a) {
  const int64_t width = (a.heads + 2 * a.kv_heads) * a.head_dim;
  for (int64_t r = 0; r < a.rows; ++r) {
    const int64_t position = a.positions[r];
    float* row = a.qkv + r * width;
    for (int64_t h = 0; h < a.heads + a.kv_heads; ++h)
      finish_head(a, h < a.heads ? a.query_gain : a.key_gain, position, row + h * a.head_dim);
    for (int64_t h = 0; h < a.kv_heads; ++h) {
      const int64_t index = (r * a.kv_heads + h) * a.cache.capacity + position;
      store(a.cache, true, row + (a.heads + h) * a.head_dim, a.head_dim, index);
      store(a.cache, false, row + (a.heads + a.kv_heads + h) * a.head_dim, a.head_dim, index);
    }
  }
}

void ReferenceDecode::heads(const DecodeHeadsArgs& a) {
  submit([a] { finish_heads(a); });
}

std::vector<float> ReferenceDecode::multiplied(const DecodeRowsIn& in, const DecodeMatrix& matrix) {
  std::vector<float> normed(size_t(in.rows * matrix.in)), out(size_t(in.rows * matrix.out));
  const DecodeNorm& norm = in.norm;
  switch (norm.kind) {
    case DecodeNorm::Kind::none:
      for (int64_t r = 0; r < in.rows; ++r)
        std::memcpy(normed.data() + r * matrix.in, in.x + r * in.stride, size_t(matrix.in) * sizeof(float));
      break;
    case DecodeNorm::Kind::rms:
    case DecodeNorm::Kind::rms_plus_one:
      backend_->rms_norm({.x = in.x,
                          .gain = norm.gain,
                          .out = normed.data(),
                          .tokens = in.rows,
                          .channels = matrix.in,
                          .x_stride = in.stride,
                          .out_stride = matrix.in,
                          .eps = norm.eps,
                          .gain_plus_one = norm.kind == DecodeNorm::Kind::rms_plus_one});
      break;
    case DecodeNorm::Kind::layer:
      backend_->layer_norm({.x = in.x,
                            .gain = norm.gain,
                            .bias = norm.bias,
                            .out = normed.data(),
                            .tokens = in.rows,
                            .channels = matrix.in,
                            .x_stride = in.stride,
                            .out_stride = matrix.in,
                            .eps = norm.eps});
      break;
  }
  if (matrix.packed != nullptr) {
    std::vector<std::byte> workspace(backend_->packed_matmul_workspace_bytes(*matrix.packed, in.rows));
    backend_->packed_matmul({.x = normed.data(),
                             .weight = matrix.packed,
                             .bias = matrix.bias,
                             .out = out.data(),
                             .m = in.rows,
                             .n = matrix.out,
                             .k = matrix.in,
                             .x_stride = matrix.in,
                             .out_stride = matrix.out,
                             .accumulate = false,
                             .workspace = workspace.data()});
  } else {
    backend_->matmul({.x = normed.data(),
                      .weight = matrix.dense,
                      .weight_dtype = matrix.dtype,
                      .bias = matrix.bias,
                      .out = out.data(),
                      .m = in.rows,
                      .n = matrix.out,
                      .k = matrix.in,
                      .x_stride = matrix.in,
                      .out_stride = matrix.out,
                      .accumulate = false,
                      .workspace = nullptr});
  }
  return out;
}

void ReferenceDecode::run_qkv(const DecodeQkvArgs& a) {
  const int64_t width = (a.heads.heads + 2 * a.heads.kv_heads) * a.heads.head_dim;
  int64_t first = 0;
  for (int i = 0; i < a.matrix_count; ++i) {
    const int64_t columns = a.matrices[i].out;
    const std::vector<float> part = multiplied(a.in, a.matrices[i]);
    for (int64_t r = 0; r < a.in.rows; ++r)
      std::copy_n(part.data() + r * columns, columns, a.heads.qkv + r * width + first);
    first += columns;
  }
  PARE_ASSERT(first == width, "[decode] {} columns of queries, keys and values, not {}", first, width);
  finish_heads(a.heads);
}

void ReferenceDecode::run_attention(const DecodeAttentionArgs& a) {
  const DecodeCache& cache = a.cache;
  const int64_t row_size = cache.kv.is_none() ? a.head_dim : cache.kv.row_bytes(a.head_dim);
  const int64_t sequence = a.kv_heads * cache.capacity * row_size;
  const int64_t bytes = cache.kv.is_none() ? dtype_bytes(cache.dtype) : 1;
  for (int64_t r = 0; r < a.rows; ++r) {
    const int64_t grid = r * a.kv_heads * cache.capacity;
    const auto grid_of = [&](auto* base) { return base != nullptr ? base + grid : nullptr; };
    backend_->attention({.q = a.q + r * a.q_stride,
                         .k = static_cast<const std::byte*>(cache.keys) + r * sequence * bytes,
                         .v = static_cast<const std::byte*>(cache.values) + r * sequence * bytes,
                         .out = a.out + r * a.heads * a.head_dim,
                         .kv_dtype = cache.dtype,
                         .sequences = 1,
                         .query_tokens = 1,
                         .key_tokens = int64_t{a.positions[r]} + 1,
                         .query_offset = a.positions[r],
                         .heads = a.heads,
                         .kv_heads = a.kv_heads,
                         .head_dim = a.head_dim,
                         .q_stride = a.q_stride,
                         .out_stride = a.heads * a.head_dim,
                         .kv_sequence_stride = sequence,
                         .kv_head_stride = cache.capacity * row_size,
                         .kv_position_stride = row_size,
                         .scale = a.scale,
                         .softcap = a.softcap,
                         .window = a.window,
                         .causal = true,
                         .kv = cache.kv,
                         .k_scales = grid_of(cache.key_scales),
                         .v_scales = grid_of(cache.value_scales),
                         .k_zeros = grid_of(cache.key_zeros),
                         .v_zeros = grid_of(cache.value_zeros),
                         .grid_head_stride = cache.capacity});
  }
}

void ReferenceDecode::run_product(const DecodeProductArgs& a) {
  std::vector<float> product = multiplied(a.in, a.matrix);
  const int64_t columns = a.matrix.out;
  backend_->activation({.x = product.data(),
                        .out = product.data(),
                        .rows = a.in.rows,
                        .columns = columns,
                        .x_stride = columns,
                        .out_stride = columns,
                        .kind = a.activation});
  for (int64_t r = 0; r < a.in.rows; ++r) {
    for (int64_t n = 0; n < columns; ++n) {
      float& out = a.out[r * a.out_stride + n];
      const float value = product[size_t(r * columns + n)];
      out = a.accumulate ? out + value : value;
    }
  }
}

void ReferenceDecode::run_gated(const DecodeGatedArgs& a) {
  const std::vector<float> gate = multiplied(a.in, a.gate), up = multiplied(a.in, a.up);
  backend_->gated_activation({.gate = gate.data(),
                              .up = up.data(),
                              .out = a.out,
                              .rows = a.in.rows,
                              .columns = a.gate.out,
                              .gate_stride = a.gate.out,
                              .up_stride = a.gate.out,
                              .out_stride = a.out_stride,
                              .kind = a.activation});
}

// The packed matrices behind the pointers outlive a recording, as its contract says.
void ReferenceDecode::qkv(const DecodeQkvArgs& a) {
  submit([this, a] { run_qkv(a); });
}
void ReferenceDecode::attention(const DecodeAttentionArgs& a) {
  submit([this, a] { run_attention(a); });
}
void ReferenceDecode::product(const DecodeProductArgs& a) {
  submit([this, a] { run_product(a); });
}
void ReferenceDecode::gated(const DecodeGatedArgs& a) {
  submit([this, a] { run_gated(a); });
}
void ReferenceDecode::choose(const DecodeChooseArgs& a) {
  submit([a] { choose_rows(a); });
}

Status ReferenceDecode::begin_capture() {
  PARE_ASSERT(!is_capturing_, "[decode] a capture within a capture");
  is_capturing_ = true;
  return {};
}

Result<std::unique_ptr<DecodeGraph>> ReferenceDecode::end_capture() {
  PARE_ASSERT(is_capturing_, "[decode] no capture to end");
  is_capturing_ = false;
  auto graph = std::make_unique<HostGraph>();
  graph->work = std::exchange(recorded_, {});
  return std::unique_ptr<DecodeGraph>(std::move(graph));
}

Status ReferenceDecode::launch(DecodeGraph& graph) {
  for (const auto& work : static_cast<HostGraph&>(graph).work) work();
  return {};
}

Result<std::unique_ptr<DecodePinned>> ReferenceDecode::pinned(int64_t count) {
  auto numbers = std::make_unique<HostNumbers>();
  numbers->numbers.resize(size_t(count));
  return std::unique_ptr<DecodePinned>(std::move(numbers));
}

}  // namespace reference
}  // namespace pare
