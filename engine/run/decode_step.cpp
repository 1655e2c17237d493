#include "engine/run/decode_step.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/core/assert.h"
#include "engine/models/rope.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/ops.h"

namespace pare {
namespace {

constexpr int kParts = 4;  // of a block
constexpr const char* kPartNames[] = {"queries, keys and values", "the output of attention", "gate and up",
                                      "down", "the head"};

// A view of the first `rows` rows of `columns` columns in a buffer that may be wider.
Tensor view(const Tensor& buffer, int64_t rows, int64_t columns) {
  return Tensor(buffer.storage(), 0, DType::f32, {rows, columns});
}

DecodeMatrix matrix_of(const Weight& weight) {
  DecodeMatrix matrix{.out = weight.out(), .in = weight.in()};
  if (weight.packed().defined()) {
    matrix.packed = &weight.packed();
  } else if (weight.dense().defined()) {
    matrix.dense = weight.dense().raw();
    matrix.dtype = weight.dense().dtype();
  }
  if (weight.bias().defined()) matrix.bias = weight.bias().data<float>();
  return matrix;
}

DecodeNorm norm_of(const Norm& norm) {
  using Kind = DecodeNorm::Kind;
  const Kind kind = norm.kind == ModelConfig::Norm::layer          ? Kind::layer
                    : norm.kind == ModelConfig::Norm::rms_plus_one ? Kind::rms_plus_one
                                                                   : Kind::rms;
  return {.kind = kind,
          .gain = norm.gain.data<float>(),
          .bias = norm.bias.defined() ? norm.bias.data<float>() : nullptr,
          .eps = norm.eps};
}

DecodeRowsIn rows_of(const Tensor& x, const DecodeNorm& norm = {}) {
  return {.x = x.data<float>(), .rows = x.size(0), .stride = x.row_stride(), .norm = norm};
}

int64_t query_columns(const BlockConfig& shape) {
  return shape.heads * shape.head_dim;
}
int64_t qkv_columns(const BlockConfig& shape) {
  return (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
}

template <typename T>
T* pointer_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data<T>() : nullptr;
}

}  // namespace

Status DecodeStep::allocate() {
  const ModelConfig& config = model.config();
  const Device device = model.device();
  int64_t qkv = 0, mixed = 0, inner = 0, counters = 0;
  size_t scratch = 0;
  for (int i = 0; i < int(config.block_count()); ++i) {
    const BlockConfig& shape = config.blocks[size_t(i)];
    qkv = std::max(qkv, qkv_columns(shape));
    mixed = std::max(mixed, query_columns(shape));
    inner = std::max(inner, shape.intermediate_size);
    counters = std::max(counters, decode_counters(shape.heads, shape.kv_heads));
  }
  // A kernel for few rows may ask for more than one for many.
  for (int64_t rows = 1; rows < 2 * sequences; rows *= 2) {
    const auto count = std::min(rows, sequences);
    // A product, behind what the norm before it has left for it.
    const auto add = [&](const Weight& weight, size_t input) {
      if (weight.defined()) scratch = std::max(scratch, input + weight.workspace_bytes(count));
    };
    for (int i = 0; i < int(config.block_count()); ++i) {
      const Attention& attend = model.block(i).attention();
      const Mlp& mlp = model.block(i).mlp();
      const size_t attended = attend.readers().norm_input_bytes(count, config.hidden_size);
      for (const Weight* weight : {&attend.qkv, &attend.query, &attend.key, &attend.value})
        add(*weight, attended);
      const size_t fed = mlp.readers().norm_input_bytes(count, config.hidden_size);
      for (const Weight* weight : {&mlp.gate, &mlp.up}) add(*weight, fed);
      for (const Weight* weight : {&attend.output, &mlp.down}) add(*weight, 0);
    }
    const Weight& head = model.head_weight();
    add(head, LinearReaders({&head}).norm_input_bytes(count, config.hidden_size));
  }
  const auto floats = [&](int64_t columns) {
    return Tensor::allocate(DType::f32, {sequences, columns}, device);
  };
  PARE_TRY(hidden_, floats(config.hidden_size));
  PARE_TRY(qkv_, floats(qkv));
  PARE_TRY(mixed_, floats(mixed));
  PARE_TRY(inner_, floats(inner));
  PARE_TRY(gate_, floats(inner));
  PARE_TRY(logits, floats(config.vocabulary_size));
  PARE_TRY(counters_, Tensor::allocate(DType::i32, {counters}, device));
  backend_for(device).zero(counters_.mutable_raw(), counters_.size_bytes());
  PARE_TRY(workspace_, Workspace::reserve(scratch, device));
  return {};
}

DecodeStep::Matrices DecodeStep::matrices_of(int block, Part part) const {
  Matrices matrices;
  const auto add = [&](const Weight& weight) { matrices.of[matrices.count++] = matrix_of(weight); };
  if (part == Part::head) {
    add(model.head_weight());
    return matrices;
  }
  const Attention& attention = model.block(block).attention();
  const Mlp& mlp = model.block(block).mlp();
  switch (part) {
    case Part::qkv:
      if (attention.is_fused()) {
        add(attention.qkv);
      } else {
        for (const Weight* weight : {&attention.query, &attention.key, &attention.value}) add(*weight);
      }
      break;
    case Part::output:
      add(attention.output);
      break;
    case Part::mlp:
      if (mlp.is_gated) add(mlp.gate);
      add(mlp.up);
      break;
    default:
      add(mlp.down);
  }
  return matrices;
}

const std::vector<std::string>& DecodeStep::reasons(int64_t rows) const {
  std::vector<std::string>& known = reasons_[rows];
  if (!known.empty()) return known;
  const int blocks = int(model.config().block_count());
  known.resize(size_t(blocks) * kParts + 1);
  for (int block = 0; block <= blocks; ++block) {
    for (int part = 0; part < (block < blocks ? kParts : 1); ++part) {
      const Matrices matrices = matrices_of(block, block < blocks ? Part(part) : Part::head);
      known[size_t(block) * kParts + size_t(part)] =
          decoding.why_not_fused(matrices.of, matrices.count, rows);
    }
  }
  return known;
}

bool DecodeStep::is_fused(int block, Part part, int64_t rows) const {
  const size_t index = part == Part::head ? size_t(model.config().block_count()) * kParts
                                          : size_t(block) * kParts + size_t(part);
  return reasons(rows)[index].empty();
}

std::vector<std::string> DecodeStep::notes(int64_t rows) const {
  const std::vector<std::string>& all = reasons(rows);
  std::vector<std::string> lines;
  const int blocks = int(model.config().block_count());
  for (int part = 0; part <= kParts; ++part) {
    std::map<std::string, int> counts;
    for (int block = 0; block < blocks && part < kParts; ++block)
      ++counts[all[size_t(block) * kParts + size_t(part)]];
    if (part == kParts) ++counts[all.back()];
    for (const auto& [reason, count] : counts) {
      if (reason.empty()) continue;
      const std::string where =
          part == kParts ? std::string() : fmt::format(" in {} of {} blocks", count, blocks);
      lines.push_back(fmt::format("{}{}: not fused for {} rows: {}", kPartNames[part], where, rows, reason));
    }
  }
  return lines;
}

DecodeCache DecodeStep::cache_of(int block) const {
  const BlockCache& from = cache.block(block);
  DecodeCache result{.capacity = cache.capacity(), .kv = from.kv};
  if (from.kv.is_none()) {
    result.keys = from.keys.mutable_raw();
    result.values = from.values.mutable_raw();
    result.dtype = from.keys.dtype();
    return result;
  }
  result.keys = from.key_codes.codes.mutable_raw();
  result.values = from.value_codes.codes.mutable_raw();
  result.key_scales = from.key_codes.scales.mutable_data<uint16_t>();
  result.value_scales = from.value_codes.scales.mutable_data<uint16_t>();
  result.key_zeros = pointer_or_null<uint8_t>(from.key_codes.zeros);
  result.value_zeros = pointer_or_null<uint8_t>(from.value_codes.zeros);
  return result;
}

DecodeHeadsArgs DecodeStep::heads_of(int block, int64_t rows) const {
  const Attention& attention = model.block(block).attention();
  const BlockConfig& shape = attention.shape;
  DecodeHeadsArgs args{};
  args.qkv = qkv_.mutable_data<float>();
  args.rows = rows;
  args.heads = shape.heads;
  args.kv_heads = shape.kv_heads;
  args.head_dim = shape.head_dim;
  args.norm = DecodeNorm::Kind::none;
  if (attention.query_norm.gain.defined()) {
    const DecodeNorm norm = norm_of(attention.query_norm);
    PARE_ASSERT(norm.kind != DecodeNorm::Kind::layer, "[decode] a layer norm of heads");
    args.norm = norm.kind;
    args.query_gain = norm.gain;
    args.key_gain = attention.key_norm.gain.data<float>();
    args.eps = norm.eps;
  }
  if (const RotaryTable* rotary = model.rotary_table(shape.head_dim); rotary != nullptr) {
    args.cosines = rotary->cosines().data<float>();
    args.sines = rotary->sines().data<float>();
    args.rotary_dim = 2 * rotary->cosines().size(1);
  }
  args.positions = positions;
  args.cache = cache_of(block);
  return args;
}

void DecodeStep::enqueue(int64_t rows, int64_t longest) {
  embed(rows);
  for (int block = 0; block < int(model.config().block_count()); ++block) {
    attend(block, rows, longest);
    feed_forward(block, rows);
  }
  predict(rows);
}

void DecodeStep::embed(int64_t rows) {
  const ModelConfig& config = model.config();
  const Weight& table = model.embedding();
  DecodeEmbedArgs args{};
  args.ids = ids;
  args.positions = positions;
  args.hidden = hidden_.mutable_data<float>();
  args.rows = rows;
  args.channels = config.hidden_size;
  args.scale = float(config.embedding_scale);
  if (table.quantized() != nullptr) {
    backend_for(model.device())
        .quantized_embedding({.ids = ids,
                              .table = table.quantized(),
                              .out = args.hidden,
                              .tokens = rows,
                              .out_stride = config.hidden_size,
                              .scale = args.scale,
                              .accumulate = false});
  } else {
    args.table = table.dense().raw();
    args.table_dtype = table.dense().dtype();
  }
  if (config.positions == ModelConfig::Positions::learned) {
    const Tensor& position_table = model.position_table().dense();
    args.position_table = position_table.raw() +
                          config.position_offset * config.hidden_size * dtype_bytes(position_table.dtype());
    args.position_dtype = position_table.dtype();
  }
  if (args.table != nullptr || args.position_table != nullptr) decoding.embed(args);
}

void DecodeStep::attend(int block, int64_t rows, int64_t longest) {
  const Attention& attention = model.block(block).attention();
  const BlockConfig& shape = attention.shape;
  const Norm& norm = model.block(block).input_norm();
  const int64_t width = qkv_columns(shape), queries = query_columns(shape),
                keys = shape.kv_heads * shape.head_dim;
  Tensor hidden = hidden_.rows(0, rows);
  const DecodeHeadsArgs heads = heads_of(block, rows);
  if (is_fused(block, Part::qkv, rows)) {
    DecodeQkvArgs args{};
    args.in = rows_of(hidden, norm_of(norm));
    const Matrices matrices = matrices_of(block, Part::qkv);
    std::copy_n(matrices.of, matrices.count, args.matrices);
    args.matrix_count = matrices.count;
    args.heads = heads;
    args.counters = counters_.mutable_data<int32_t>();
    decoding.qkv(args);
  } else {
    const Workspace::Scope scope(workspace_);
    const LinearInput normed = attention.readers().input(norm, hidden, workspace_);
    Tensor qkv = view(qkv_, rows, width);
    if (attention.is_fused()) {
      attention.qkv.multiply(normed, /*accumulate=*/false, qkv, workspace_);
    } else {
      Tensor q = qkv.columns(0, queries), k = qkv.columns(queries, queries + keys),
             v = qkv.columns(queries + keys, width);
      attention.query.multiply(normed, /*accumulate=*/false, q, workspace_);
      attention.key.multiply(normed, /*accumulate=*/false, k, workspace_);
      attention.value.multiply(normed, /*accumulate=*/false, v, workspace_);
    }
    decoding.heads(heads);
  }

  Tensor mixed = view(mixed_, rows, queries);
  decoding.attention({.q = heads.qkv,
                      .out = mixed.mutable_data<float>(),
                      .positions = positions,
                      .cache = heads.cache,
                      .rows = rows,
                      .heads = shape.heads,
                      .kv_heads = shape.kv_heads,
                      .head_dim = shape.head_dim,
                      .q_stride = width,
                      .longest = longest,
                      .scale = attention.scale,
                      .softcap = attention.softcap,
                      .window = shape.sliding_window});
  if (is_fused(block, Part::output, rows)) {
    decoding.product({.in = rows_of(mixed),
                      .matrix = matrix_of(attention.output),
                      .out = hidden.mutable_data<float>(),
                      .out_stride = hidden.row_stride(),
                      .accumulate = true,
                      .activation = Activation::identity});
  } else {
    attention.output.multiply(mixed, /*accumulate=*/true, hidden, workspace_);
  }
}

void DecodeStep::feed_forward(int block, int64_t rows) {
  const Mlp& mlp = model.block(block).mlp();
  const Norm& norm = model.block(block).post_attention_norm();
  Tensor hidden = hidden_.rows(0, rows), inner = view(inner_, rows, mlp.intermediate_size);
  if (is_fused(block, Part::mlp, rows)) {
    const DecodeRowsIn in = rows_of(hidden, norm_of(norm));
    if (mlp.is_gated) {
      decoding.gated({.in = in,
                      .gate = matrix_of(mlp.gate),
                      .up = matrix_of(mlp.up),
                      .out = inner.mutable_data<float>(),
                      .out_stride = inner.row_stride(),
                      .activation = mlp.activation});
    } else {
      decoding.product({.in = in,
                        .matrix = matrix_of(mlp.up),
                        .out = inner.mutable_data<float>(),
                        .out_stride = inner.row_stride(),
                        .accumulate = false,
                        .activation = mlp.activation});
    }
  } else {
    const Workspace::Scope scope(workspace_);
    const LinearInput normed = mlp.readers().input(norm, hidden, workspace_);
    Tensor gate = view(gate_, rows, mlp.intermediate_size);
    mlp.up.multiply(normed, /*accumulate=*/false, inner, workspace_);
    if (mlp.is_gated) {
      mlp.gate.multiply(normed, /*accumulate=*/false, gate, workspace_);
      ops::gated_activation(mlp.activation, gate, inner, inner);
    } else {
      ops::activation(mlp.activation, inner, inner);
    }
  }
  if (is_fused(block, Part::down, rows)) {
    decoding.product({.in = rows_of(inner),
                      .matrix = matrix_of(mlp.down),
                      .out = hidden.mutable_data<float>(),
                      .out_stride = hidden.row_stride(),
                      .accumulate = true,
                      .activation = Activation::identity});
  } else {
    mlp.down.multiply(inner, /*accumulate=*/true, hidden, workspace_);
  }
}

void DecodeStep::predict(int64_t rows) {
  const Norm& norm = model.final_norm();
  Tensor hidden = hidden_.rows(0, rows), out = logits.rows(0, rows);
  if (is_fused(0, Part::head, rows)) {
    decoding.product({.in = rows_of(hidden, norm_of(norm)),
                      .matrix = matrix_of(model.head_weight()),
                      .out = out.mutable_data<float>(),
                      .out_stride = out.row_stride(),
                      .accumulate = false,
                      .activation = Activation::identity});
  } else {
    const Workspace::Scope scope(workspace_);
    const LinearInput normed = LinearReaders({&model.head_weight()}).input(norm, hidden, workspace_);
    model.head_weight().multiply(normed, /*accumulate=*/false, out, workspace_);
  }
  if (model.config().logit_softcap > 0.0) ops::softcap(out, float(model.config().logit_softcap));
}

}  // namespace pare
