#include "distill/head_loss.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "engine/core/parallel.h"

namespace pare {
namespace {

constexpr int64_t kLeastRows = 32;
constexpr int64_t kRowTile = 32;  // chunks are whole tiles, which products like

bool has_target(const Tensor& targets, int64_t begin, int64_t end) {
  const int32_t* ids = targets.data<int32_t>();
  return std::any_of(ids + begin, ids + end, [](int32_t id) { return id >= 0; });
}

Status check_targets(const Tensor& targets, int64_t real_columns) {
  const int32_t* ids = targets.data<int32_t>();
  for (int64_t i = 0; i < targets.numel(); ++i) {
    if (ids[i] < real_columns) continue;
    return Error{.exit = Exit::malformed,
                 .rule = {},
                 .path = "training data",
                 .where = fmt::format("token {}", i),
                 .what = "id that student or teacher does not know",
                 .got = fmt::format("{}", ids[i]),
                 .limit = fmt::format("{}", real_columns - 1)};
  }
  return {};
}

// Buffers of one chunk.
struct Chunk {
  Tensor normed, logits, targets, cross_entropy, divergence;
};

Chunk take_chunk(int64_t rows, int64_t channels, int64_t vocabulary, Workspace& workspace) {
  return {.normed = workspace.take(DType::f32, {rows, channels}),
          .logits = workspace.take(DType::f32, {rows, vocabulary}),
          .targets = workspace.take(DType::i32, {rows}),
          .cross_entropy = workspace.take(DType::f64, {rows}),
          .divergence = workspace.take(DType::f64, {rows})};
}

void fill_zeros(Tensor& rows) {
  std::memset(rows.mutable_raw(), 0, rows.size_bytes());
}

}  // namespace

int64_t loss_chunk_rows(int64_t tokens, int64_t columns, size_t budget_bytes) {
  const auto by_budget = int64_t(budget_bytes / (size_t(std::max<int64_t>(columns, 1)) * sizeof(float)));
  const int64_t by_share = tokens * 3 / 10;
  const int64_t rows = std::max(kLeastRows, std::min(by_budget, by_share) / kRowTile * kRowTile);
  return std::clamp<int64_t>(rows, 1, std::max<int64_t>(tokens, 1));
}

HeadParts head_of(const TrainingModel& student) {
  return {.norm = student.final_norm(),
          .head = student.head(),
          .softcap = float(student.config().logit_softcap),
          .vocabulary_size = student.config().vocabulary_size};
}

double LossSums::total(const LossConfig& config) const {
  const double factor = config.squares_temperature ? config.temperature * config.temperature : 1.0;
  return config.alpha * cross_entropy + (1.0 - config.alpha) * factor * divergence;
}

void LossSums::add(const LossSums& other) {
  cross_entropy += other.cross_entropy;
  divergence += other.divergence;
  tokens += other.tokens;
}

size_t head_loss_bytes(const HeadParts& head, int64_t chunk_rows) {
  const int64_t channels = head.head.in(), vocabulary = head.head.out();
  const size_t chunk = Workspace::bytes_for(DType::f32, {chunk_rows, channels}) +
                       Workspace::bytes_for(DType::f32, {chunk_rows, vocabulary}) +
                       Workspace::bytes_for(DType::i32, {chunk_rows}) +
                       2 * Workspace::bytes_for(DType::f64, {chunk_rows});
  const size_t backward =
      Workspace::bytes_for(DType::f32, {chunk_rows, channels}) +
      std::max(head.head.backward_workspace_bytes(chunk_rows), Norm::backward_workspace_bytes(chunk_rows));
  return chunk + std::max(head.head.workspace_bytes(chunk_rows), backward);
}

Result<LossSums> run_head_loss(const HeadParts& head, const HeadLossRun& run, const Tensor& hidden,
                               const Tensor& targets, Tensor& dhidden, Workspace& workspace) {
  const int64_t tokens = hidden.size(0), channels = hidden.size(1), vocabulary = head.head.out();
  PARE_ASSERT(channels == head.head.in() && targets.numel() == tokens && run.chunk_rows > 0,
              "[head loss] hidden {}, head [{}, {}], {} targets, chunks of {}", hidden.shape().text(),
              vocabulary, head.head.in(), targets.numel(), run.chunk_rows);
  PARE_ASSERT(run.teacher != nullptr || !run.config.needs_teacher(), "[head loss] {} without a teacher",
              loss_kind_name(run.config.kind));
  const bool wants_gradient = dhidden.defined();
  int64_t real_columns = std::min(head.vocabulary_size, vocabulary);
  Teacher* teacher = run.config.needs_teacher() ? run.teacher : nullptr;
  if (teacher != nullptr) real_columns = std::min(real_columns, teacher->vocabulary_size());
  PARE_CHECK(check_targets(targets, real_columns));
  const ops::LossRowsOptions options =
      rows_options(run.config, real_columns, head.softcap, run.gradient_scale);

  LossSums sums;
  for (int64_t begin = 0; begin < tokens; begin += run.chunk_rows) {
    const int64_t end = std::min(begin + run.chunk_rows, tokens);
    Tensor dx = wants_gradient ? dhidden.rows(begin, end) : Tensor();
    if (!has_target(targets, begin, end)) {
      if (wants_gradient) fill_zeros(dx);
      continue;
    }
    const Workspace::Scope scope(workspace);
    const Tensor x = hidden.rows(begin, end);
    Chunk chunk = take_chunk(end - begin, channels, vocabulary, workspace);
    head.norm.forward(x, chunk.normed);
    head.head.multiply(chunk.normed, /*accumulate=*/false, chunk.logits, workspace);
    if (head.softcap > 0.0f) ops::softcap(chunk.logits, head.softcap);
    TeacherRows rows;
    if (teacher != nullptr) {
      PARE_TRY(rows, teacher->rows(begin, end));
    }
    std::memcpy(chunk.targets.mutable_raw(), targets.rows(begin, end).raw(), chunk.targets.size_bytes());
    ops::loss_rows(chunk.logits, rows.logits, rows.top_ids, rows.top_log_probs, chunk.targets, options,
                   chunk.cross_entropy, chunk.divergence);
    for (int64_t i = 0; i < end - begin; ++i) {
      if (chunk.targets.data<int32_t>()[i] < 0) continue;
      sums.cross_entropy += chunk.cross_entropy.data<double>()[i];
      sums.divergence += chunk.divergence.data<double>()[i];
      ++sums.tokens;
    }
    if (!wants_gradient) continue;
    Tensor dnormed = workspace.take(DType::f32, {end - begin, channels});
    head.head.backward(chunk.normed, chunk.logits, /*accumulate=*/false, &dnormed, workspace);
    head.norm.backward(x, dnormed, /*accumulate=*/false, dx, workspace);
  }
  return sums;
}

}  // namespace pare
