#include "calibrate/divergence_probe.h"

#include <algorithm>
#include <cstring>

#include "engine/core/memory.h"
#include "engine/core/text.h"
#include "engine/tensor/ops.h"

namespace pare {
namespace {

Error too_large(uint64_t limit, uint64_t need) {
  return Error{.exit = Exit::resource,
               .rule = "CL05",
               .path = "memory",
               .where = {},
               .what =
                   "measuring divergences holds the whole model; raise --max-memory, or compare parts by "
                   "their outputs (quantize: --sensitivity output; prune: --allocation owl)",
               .got = format_bytes(limit),
               .limit = format_bytes(need),
               .limit_label = "need"};
}

uint64_t weight_bytes(const WeightSource& source) {
  uint64_t bytes = 0;
  for (const StoredTensor& tensor : source.tensors()) bytes += tensor.bytes;
  return bytes;
}

}  // namespace

Result<std::unique_ptr<DivergenceProbe>> DivergenceProbe::create(std::shared_ptr<const WeightSource> source,
                                                                 const CalibrationWindows& windows,
                                                                 int64_t window_count, int64_t rows,
                                                                 uint64_t memory_limit) {
  std::unique_ptr<DivergenceProbe> probe(new DivergenceProbe());
  probe->source_ = std::make_shared<EditedSource>(std::move(source));
  PARE_TRY(probe->model_, Model::open(probe->source_, Device::cpu()));
  Model& model = *probe->model_;
  const int64_t hidden = model.config().hidden_size, vocabulary = model.config().vocabulary_size;
  probe->batch_ = {.sequences = std::min(window_count, windows.samples),
                   .tokens_per_sequence = windows.context};
  const int64_t tokens = probe->batch_.tokens();
  rows = std::min(rows, tokens);
  const size_t scratch = model.workspace_bytes(probe->batch_, rows);
  const uint64_t need = resident_bytes() + weight_bytes(*probe->source_) + scratch +
                        uint64_t(tokens * hidden * 2 + rows * (hidden + 2 * vocabulary)) * sizeof(float);
  if (need > memory_limit) return too_large(memory_limit, need);
  PARE_CHECK(model.load_all());
  PARE_CHECK(model.reserve_positions(windows.context));
  PARE_TRY(probe->workspace_, Workspace::reserve(scratch, Device::cpu()));
  PARE_TRY(probe->hidden_, Tensor::allocate(DType::f32, {tokens, hidden}));
  PARE_TRY(probe->trial_, Tensor::allocate(DType::f32, {tokens, hidden}));
  PARE_TRY(probe->rows_, Tensor::allocate(DType::f32, {rows, hidden}));
  PARE_TRY(probe->original_, Tensor::allocate(DType::f32, {rows, vocabulary}));
  PARE_TRY(probe->logits_, Tensor::allocate(DType::f32, {rows, vocabulary}));
  for (Tensor* sums : {&probe->original_sum_, &probe->sum_, &probe->nll_, &probe->kl_}) {
    PARE_TRY(*sums, Tensor::allocate(DType::f64, {rows}));
  }
  PARE_TRY(probe->best_, Tensor::allocate(DType::i32, {rows}));
  PARE_TRY(probe->targets_, Tensor::allocate(DType::i32, {rows}));  // zeros: only the sums are used
  for (int64_t i = 0; i < rows; ++i) probe->positions_.push_back((2 * i + 1) * tokens / (2 * rows));

  std::vector<int32_t> copy(windows.ids.begin(), windows.ids.begin() + tokens);
  const Tensor ids = Tensor::wrap(copy.data(), DType::i32, {tokens});
  PARE_CHECK(model.embed(ids, probe->batch_, probe->hidden_, probe->workspace_));
  std::memcpy(probe->trial_.mutable_raw(), probe->hidden_.raw(), probe->hidden_.size_bytes());
  for (int block = 0; block < int(model.config().block_count()); ++block)
    PARE_CHECK(model.run_block(block, probe->batch_, probe->trial_, nullptr, probe->workspace_));
  PARE_CHECK(probe->logits_of(probe->trial_, probe->original_));
  ops::cross_entropy(probe->original_, probe->targets_, probe->original_sum_, probe->nll_, probe->best_);
  return probe;
}

Status DivergenceProbe::logits_of(const Tensor& hidden, Tensor& logits) {
  const int64_t width = hidden.size(1);
  for (size_t i = 0; i < positions_.size(); ++i)
    std::memcpy(rows_.mutable_data<float>() + int64_t(i) * width,
                hidden.data<float>() + positions_[i] * width, size_t(width) * sizeof(float));
  return model_->run_head(rows_, logits, workspace_);
}

Status DivergenceProbe::advance_to(int block) {
  PARE_ASSERT(block >= block_, "[probe] block {} after {}", block, block_);
  for (; block_ < block; ++block_)
    PARE_CHECK(model_->run_block(block_, batch_, hidden_, nullptr, workspace_));
  return {};
}

Result<double> DivergenceProbe::divergence(int block, const std::vector<const TensorSpec*>& linears,
                                           const Replacement& replacement) {
  PARE_CHECK(advance_to(block));
  for (const TensorSpec* spec : linears) {
    PARE_TRY(const WeightData data, source_->load(spec->name));
    PARE_TRY(Tensor weight, data.to_dense_tensor());
    PARE_TRY(weight, converted(weight, DType::f32));
    if (spec->transposed) {
      PARE_TRY(weight, transposed(weight));
    }
    PARE_TRY(WeightData replaced, replacement(*spec, weight));
    if (replaced.is_dense() && spec->transposed) {
      PARE_TRY(Tensor turned, transposed(replaced.dense()));
      replaced.form = std::move(turned);
    }
    replaced.transposed = !replaced.is_dense() && spec->transposed;
    source_->set(spec->name, std::move(replaced));
    PARE_CHECK(model_->reload(block, spec->role, spec->expert));
  }
  std::memcpy(trial_.mutable_raw(), hidden_.raw(), hidden_.size_bytes());
  for (int later = block; later < int(model_->config().block_count()); ++later)
    PARE_CHECK(model_->run_block(later, batch_, trial_, nullptr, workspace_));
  PARE_CHECK(logits_of(trial_, logits_));
  ops::cross_entropy(logits_, targets_, sum_, nll_, best_);
  ops::divergence(original_, logits_, original_sum_, sum_, kl_);
  for (const TensorSpec* spec : linears) {
    source_->discard(spec->name);
    PARE_CHECK(model_->reload(block, spec->role, spec->expert));
  }
  double total = 0.0;
  for (int64_t i = 0; i < kl_.numel(); ++i) total += kl_.data<double>()[i];
  return std::max(0.0, total / double(kl_.numel()));
}

}  // namespace pare
