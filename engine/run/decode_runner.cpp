#include "engine/run/decode_runner.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <set>

#include "engine/core/assert.h"
#include "engine/core/random.h"
#include "engine/run/decode_step.h"
#include "engine/tensor/backend.h"

namespace pare {
namespace {

constexpr int64_t kShortest = 256;  // of the contexts that share a recording

Error fault_error(int32_t fault) {
  return {.exit = Exit::numeric,
          .rule = "NU16",
          .path = "sampler",
          .where = "logits",
          .what = fault == kDecodeNan        ? "NaN"
                  : fault == kDecodeInfinity ? "infinity"
                                             : "no finite value"};
}

DecodeSampling sampling_of(const SamplerOptions& options) {
  const auto key = Random(options.seed, RandomPurpose::sampling).key();
  return {.temperature = float(options.temperature),
          .repetition_penalty = float(options.repetition_penalty),
          .top_p = options.top_p,
          .min_p = options.min_p,
          .top_k = options.top_k,
          .key = {key[0], key[1]}};
}

int64_t power_of_two(int64_t least) {
  return int64_t(std::bit_ceil(uint64_t(least)));
}

// Tables of these kinds are computed again when a sequence passes the length that the model was made for.
bool changes_with_length(const RopeConfig& rope, int64_t max_positions, int64_t capacity) {
  if (rope.kind == RopeConfig::Kind::dynamic) return capacity > max_positions;
  return rope.kind == RopeConfig::Kind::longrope && capacity > rope.original_max_positions;
}

}  // namespace

std::string DecodeRunner::why_not(const Model& model, int64_t capacity) {
  const ModelConfig& config = model.config();
  if (!config.is_causal) return "attention is not causal";
  for (const BlockConfig& block : config.blocks)
    if (block.is_mixture()) return "experts of a mixture are chosen by the host";
  if (config.positions == ModelConfig::Positions::rotary &&
      changes_with_length(config.rope, config.max_positions, capacity))
    return "rotary frequencies depend on the length of the sequence";
  if (config.positions == ModelConfig::Positions::learned && model.position_table().quantized() != nullptr)
    return "the table of positions is quantized";
  return {};
}

DecodeRunner::DecodeRunner(Model& model, KvCache& cache, int64_t sequences, DecodeBackend& decoding)
    : model_(model), cache_(cache), sequences_(sequences), decoding_(decoding), rows_(size_t(sequences)) {}
DecodeRunner::~DecodeRunner() {
  // Whatever still runs uses the buffers.
  const Status ignored = backend_for(model_.device()).finish();
  (void)ignored;
}

Result<std::unique_ptr<DecodeRunner>> DecodeRunner::create(Model& model, KvCache& cache, int64_t sequences,
                                                           DecodeBackend& decoding) {
  PARE_ASSERT(sequences >= 1 && sequences <= kSequences, "[decode] {} sequences", sequences);
  PARE_ASSERT(why_not(model, cache.capacity()).empty(), "[decode] {}", why_not(model, cache.capacity()));
  std::unique_ptr<DecodeRunner> runner(new DecodeRunner(model, cache, sequences, decoding));
  PARE_CHECK(runner->allocate());
  return runner;
}

Status DecodeRunner::allocate() {
  const Device device = model_.device();
  const int64_t words = (model_.config().vocabulary_size + 31) / 32;
  PARE_TRY(ids_, Tensor::allocate(DType::i32, {sequences_}, device));
  PARE_TRY(positions_, Tensor::allocate(DType::i32, {sequences_}, device));
  PARE_TRY(draws_, Tensor::allocate(DType::i32, {sequences_}, device));
  PARE_TRY(seen_, Tensor::allocate(DType::i32, {sequences_, words}, device));
  PARE_TRY(sampling_, Tensor::allocate(DType::u8, {sequences_ * int64_t(sizeof(DecodeSampling))}, device));
  PARE_TRY(
      choose_workspace_,
      Tensor::allocate(
          DType::u8, {int64_t(decoding_.choose_workspace_bytes(sequences_, model_.config().vocabulary_size))},
          device));
  Backend& backend = backend_for(device);
  for (const Tensor* tensor : {&ids_, &positions_, &draws_, &seen_})
    backend.zero(tensor->mutable_raw(), tensor->size_bytes());
  const std::vector<DecodeSampling> greedy(static_cast<size_t>(sequences_));
  PARE_CHECK(backend.upload(sampling_.mutable_raw(), greedy.data(), sampling_.size_bytes()));
  PARE_TRY(ring_, decoding_.pinned(kDecodeMarks * sequences_));
  step_ = std::make_unique<DecodeStep>(model_, cache_, decoding_, sequences_, ids_.data<int32_t>(),
                                       positions_.data<int32_t>());
  PARE_CHECK(step_->allocate());
  std::set<std::string> lines;
  for (int64_t rows = 1; rows < 2 * sequences_; rows *= 2) {
    for (std::string& line : step_->notes(std::min(rows, sequences_))) lines.insert(std::move(line));
  }
  notes_.assign(lines.begin(), lines.end());
  return {};
}

DecodeState DecodeRunner::state(int64_t row, int64_t rows) const {
  const int64_t words = seen_.size(1);
  return {.ids = ids_.mutable_data<int32_t>() + row,
          .positions = positions_.mutable_data<int32_t>() + row,
          .draws = draws_.mutable_data<int32_t>() + row,
          .seen = reinterpret_cast<uint32_t*>(seen_.mutable_data<int32_t>()) + row * words,
          .sampling = reinterpret_cast<DecodeSampling*>(sampling_.mutable_raw()) + row,
          .ring = ring_->data() + row,
          .rows = rows,
          .words = words,
          .slots = kDecodeMarks,
          .ring_stride = sequences_,
          .last_position = int32_t(cache_.capacity() - 1)};
}

void DecodeRunner::choose(const Tensor& logits, int64_t row, int64_t rows, bool advance, bool is_greedy) {
  decoding_.choose({.logits = logits.data<float>(),
                    .columns = model_.config().vocabulary_size,
                    .state = state(row, rows),
                    .advance = advance,
                    .is_greedy = is_greedy,
                    .workspace = choose_workspace_.mutable_raw()});
}

Status DecodeRunner::note_draws(int64_t row, int64_t rows) {
  PARE_CHECK(decoding_.mark(mark_));
  for (int64_t r = row; r < row + rows; ++r) {
    Row& own = rows_[size_t(r)];
    own.marks[own.draws % kDecodeMarks] = mark_;
    ++own.draws;
  }
  ++mark_;
  return {};
}

Status DecodeRunner::start(int64_t row, std::span<const int32_t> history, const SamplerOptions& options,
                           const Tensor& logits) {
  PARE_ASSERT(
      row >= 0 && row < sequences_ && !history.empty() && int64_t(history.size()) <= cache_.capacity(),
      "[decode] row {} behind {} positions", row, history.size());
  PARE_ASSERT(logits.device() == model_.device() && logits.numel() == model_.config().vocabulary_size,
              "[decode] logits {}", logits.shape().text());
  Backend& backend = backend_for(model_.device());
  const DecodeState own = state(row, 1);
  rows_[size_t(row)] = {.position = std::min(int64_t(history.size()), cache_.capacity() - 1),
                        .draws = 0,
                        .is_greedy = !(options.temperature > 0.0)};
  const auto position = int32_t(rows_[size_t(row)].position);
  const DecodeSampling sampling = sampling_of(options);
  std::vector<uint32_t> seen(size_t(own.words));
  for (const int32_t id : history) {
    if (id >= 0 && id < model_.config().vocabulary_size) seen[size_t(id / 32)] |= 1u << (id % 32);
  }
  backend.zero(own.draws, sizeof(int32_t));
  PARE_CHECK(backend.upload(own.positions, &position, sizeof position));
  PARE_CHECK(backend.upload(own.sampling, &sampling, sizeof sampling));
  PARE_CHECK(backend.upload(own.seen, seen.data(), seen.size() * sizeof(uint32_t)));
  choose(logits, row, 1, /*advance=*/false, rows_[size_t(row)].is_greedy);
  return note_draws(row, 1);
}

Status DecodeRunner::step(int64_t rows) {
  PARE_ASSERT(rows >= 1 && rows <= sequences_, "[decode] {} of {} rows", rows, sequences_);
  Shape shape{.rows = std::min(power_of_two(rows), sequences_), .longest = 0, .is_greedy = true};
  int64_t longest = kShortest;
  for (int64_t r = 0; r < shape.rows; ++r) {
    longest = std::max(longest, rows_[size_t(r)].position + 1);
    shape.is_greedy = shape.is_greedy && rows_[size_t(r)].is_greedy;
  }
  shape.longest = std::min(power_of_two(longest), cache_.capacity());
  PARE_CHECK(run(shape));
  for (int64_t r = 0; r < shape.rows; ++r)
    rows_[size_t(r)].position = std::min(rows_[size_t(r)].position + 1, cache_.capacity() - 1);
  return note_draws(0, shape.rows);
}

Status DecodeRunner::run(const Shape& shape) {
  const auto ask = [&] {
    step_->enqueue(shape.rows, shape.longest);
    choose(step_->logits, 0, shape.rows, /*advance=*/true, shape.is_greedy);
  };
  const auto [entry, is_new] = recordings_.try_emplace(shape);
  if (is_new) {
    ask();
    return {};
  }
  if (entry->second == nullptr) {
    PARE_CHECK(decoding_.begin_capture());
    ask();
    PARE_TRY(entry->second, decoding_.end_capture());
  }
  kernels_[shape.rows] = entry->second->kernels();
  return decoding_.launch(*entry->second);
}

Result<int32_t> DecodeRunner::id(int64_t row, int64_t number) {
  const Row& own = rows_[size_t(row)];
  PARE_ASSERT(number >= 0 && number < own.draws && number + kDecodeMarks > own.draws,
              "[decode] id {} of {} that were chosen", number, own.draws);
  const int64_t mark = own.marks[number % kDecodeMarks];
  PARE_CHECK(decoding_.wait(mark));
  const int32_t id = ring_->data()[number % kDecodeMarks * sequences_ + row];
  if (id < 0) return fault_error(id);
  return id;
}

int64_t DecodeRunner::kernels_per_step(int64_t rows) const {
  const auto found = kernels_.find(std::min(power_of_two(rows), sequences_));
  return found == kernels_.end() ? 0 : found->second;
}

}  // namespace pare
