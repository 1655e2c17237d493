#include "distill/head_loss.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/core/parallel.h"
#include "engine/tensor/transfer.h"

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

// Of all rows of a batch, so that nothing waits between chunks.
struct Rows {
  Tensor targets, cross_entropy, divergence;
};

Rows take_rows(int64_t tokens, Workspace& workspace) {
  return {.targets = workspace.take(DType::i32, {tokens}),
          .cross_entropy = workspace.take(DType::f64, {tokens}),
          .divergence = workspace.take(DType::f64, {tokens})};
}

Result<LossSums> summed(const Rows& rows, const Tensor& targets) {
  const Device device = rows.targets.device();
  const Device host = device.is_host() ? device : Device::cpu();
  PARE_TRY(const Tensor cross_entropy, moved(rows.cross_entropy, host));
  PARE_TRY(const Tensor divergence, moved(rows.divergence, host));
  LossSums sums;
  for (int64_t i = 0; i < targets.numel(); ++i) {
    if (targets.data<int32_t>()[i] < 0) continue;
    sums.cross_entropy += cross_entropy.data<double>()[i];
    sums.divergence += divergence.data<double>()[i];
    ++sums.tokens;
  }
  return sums;
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

size_t head_loss_bytes(const HeadParts& head, int64_t chunk_rows, int64_t tokens) {
  const int64_t channels = head.head.in(), vocabulary = head.head.out();
  const size_t rows =
      Workspace::bytes_for(DType::i32, {tokens}) + 2 * Workspace::bytes_for(DType::f64, {tokens});
  const size_t chunk = Workspace::bytes_for(DType::f32, {chunk_rows, channels}) +
                       Workspace::bytes_for(DType::f32, {chunk_rows, vocabulary});
  const size_t backward =
      Workspace::bytes_for(DType::f32, {chunk_rows, channels}) +
      std::max(head.head.backward_workspace_bytes(chunk_rows), Norm::backward_workspace_bytes(chunk_rows));
  return rows + chunk + std::max(head.head.workspace_bytes(chunk_rows), backward);
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

  const Workspace::Scope rows_scope(workspace);
  const Rows all = take_rows(tokens, workspace);
  PARE_CHECK(copy_into(targets.reshaped({tokens}), all.targets));
  for (int64_t begin = 0; begin < tokens; begin += run.chunk_rows) {
    const int64_t end = std::min(begin + run.chunk_rows, tokens);
    Tensor dx = wants_gradient ? dhidden.rows(begin, end) : Tensor();
    if (!has_target(targets, begin, end)) {
      if (wants_gradient) clear(dx);
      continue;
    }
    const Workspace::Scope scope(workspace);
    const Tensor x = hidden.rows(begin, end);
    Tensor normed = workspace.take(DType::f32, {end - begin, channels});
    Tensor logits = workspace.take(DType::f32, {end - begin, vocabulary});
    Tensor cross_entropy = all.cross_entropy.rows(begin, end), divergence = all.divergence.rows(begin, end);
    head.norm.forward(x, normed);
    head.head.multiply(normed, /*accumulate=*/false, logits, workspace);
    if (head.softcap > 0.0f) ops::softcap(logits, head.softcap);
    TeacherRows rows;
    if (teacher != nullptr) {
      PARE_TRY(rows, teacher->rows(begin, end));
    }
    ops::loss_rows(logits, rows.logits, rows.top_ids, rows.top_log_probs, all.targets.rows(begin, end),
                   options, cross_entropy, divergence);
    if (!wants_gradient) continue;
    Tensor dnormed = workspace.take(DType::f32, {end - begin, channels});
    head.head.backward(normed, logits, /*accumulate=*/false, &dnormed, workspace);
    head.norm.backward(x, dnormed, /*accumulate=*/false, dx, workspace);
  }
  return summed(all, targets);
}

}  // namespace pare
