#include "calibrate/divergence_probe.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/core/memory.h"
#include "engine/core/text.h"
#include "engine/tensor/ops.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

Error too_large(Device device, uint64_t limit, uint64_t need) {
  return Error{.exit = Exit::resource,
               .rule = "CL05",
               .path = device.is_host() ? "memory" : "memory of " + device.name(),
               .where = {},
               .what = fmt::format(
                   "measuring divergences holds the whole model; raise {}, or compare parts by their outputs "
                   "(quantize: --sensitivity output; prune: --allocation owl)",
                   device.is_host() ? "--max-memory" : "--max-vram"),
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
                                                                 uint64_t memory_limit, Device device) {
  std::unique_ptr<DivergenceProbe> probe(new DivergenceProbe());
  probe->source_ = std::make_shared<EditedSource>(std::move(source));
  PARE_TRY(probe->model_, Model::open(probe->source_, device));
  Model& model = *probe->model_;
  const int64_t hidden = model.config().hidden_size, vocabulary = model.config().vocabulary_size;
  probe->batch_ = {.sequences = std::min(window_count, windows.samples),
                   .tokens_per_sequence = windows.context};
  const int64_t tokens = probe->batch_.tokens();
  rows = std::min(rows, tokens);
  const size_t scratch = model.workspace_bytes(probe->batch_, rows);
  const uint64_t held = device.is_host() ? resident_bytes() : 0;
  const uint64_t need = held + weight_bytes(*probe->source_) + scratch +
                        uint64_t(tokens * hidden * 2 + rows * (hidden + 2 * vocabulary)) * sizeof(float);
  if (need > memory_limit) return too_large(device, memory_limit, need);
  PARE_CHECK(model.load_all());
  PARE_CHECK(model.reserve_positions(windows.context));
  PARE_TRY(probe->workspace_, Workspace::reserve(scratch, device));
  PARE_TRY(probe->hidden_, Tensor::allocate(DType::f32, {tokens, hidden}, device));
  PARE_TRY(probe->trial_, Tensor::allocate(DType::f32, {tokens, hidden}, device));
  PARE_TRY(probe->rows_, Tensor::allocate(DType::f32, {rows, hidden}, device));
  PARE_TRY(probe->original_, Tensor::allocate(DType::f32, {rows, vocabulary}, device));
  PARE_TRY(probe->logits_, Tensor::allocate(DType::f32, {rows, vocabulary}, device));
  for (Tensor* sums : {&probe->original_sum_, &probe->sum_, &probe->nll_, &probe->kl_}) {
    PARE_TRY(*sums, Tensor::allocate(DType::f64, {rows}, device));
  }
  PARE_TRY(probe->best_, Tensor::allocate(DType::i32, {rows}, device));
  PARE_TRY(probe->targets_, Tensor::allocate(DType::i32, {rows}, device));
  clear(probe->targets_);  // only the sums are used
  std::vector<int32_t> positions;
  for (int64_t i = 0; i < rows; ++i) positions.push_back(int32_t((2 * i + 1) * tokens / (2 * rows)));
  PARE_TRY(probe->positions_, Tensor::allocate(DType::i32, {rows}, device));
  PARE_CHECK(copy_into(Tensor::wrap(positions.data(), DType::i32, {rows}), probe->positions_));

  std::vector<int32_t> copy(windows.ids.begin(), windows.ids.begin() + tokens);
  const Tensor ids = Tensor::wrap(copy.data(), DType::i32, {tokens});
  PARE_CHECK(model.embed(ids, probe->batch_, probe->hidden_, probe->workspace_));
  PARE_CHECK(copy_into(probe->hidden_, probe->trial_));
  for (int block = 0; block < int(model.config().block_count()); ++block)
    PARE_CHECK(model.run_block(block, probe->batch_, probe->trial_, nullptr, probe->workspace_));
  PARE_CHECK(probe->logits_of(probe->trial_, probe->original_));
  ops::cross_entropy(probe->original_, probe->targets_, probe->original_sum_, probe->nll_, probe->best_);
  return probe;
}

Status DivergenceProbe::logits_of(const Tensor& hidden, Tensor& logits) {
  ops::gather_rows(hidden, positions_, 1, rows_);
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
  PARE_CHECK(copy_into(hidden_, trial_));
  for (int later = block; later < int(model_->config().block_count()); ++later)
    PARE_CHECK(model_->run_block(later, batch_, trial_, nullptr, workspace_));
  PARE_CHECK(logits_of(trial_, logits_));
  ops::cross_entropy(logits_, targets_, sum_, nll_, best_);
  ops::divergence(original_, logits_, original_sum_, sum_, kl_);
  for (const TensorSpec* spec : linears) {
    source_->discard(spec->name);
    PARE_CHECK(model_->reload(block, spec->role, spec->expert));
  }
  PARE_TRY(const Tensor kl, moved(kl_, Device::cpu()));
  double total = 0.0;
  for (int64_t i = 0; i < kl.numel(); ++i) total += kl.data<double>()[i];
  return std::max(0.0, total / double(kl_.numel()));
}

}  // namespace pare
