#include "prune/structured/layer_choice.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "engine/core/parallel.h"
#include "engine/tensor/ops.h"
#include "engine/tensor/transfer.h"
#include "prune/structured/select.h"

namespace pare {
namespace {

constexpr int64_t kLogitRows = 256;  // at a time

// Cosine of each row of two matrices; 1 for two zero rows.
void row_cosines(const Tensor& a, const Tensor& b, double* cosines) {
  const int64_t columns = a.size(1);
  parallel_ranges(a.size(0), 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = a.data<float>() + row * a.row_stride();
      const float* y = b.data<float>() + row * b.row_stride();
      double xy = 0.0, xx = 0.0, yy = 0.0;
      for (int64_t c = 0; c < columns; ++c) {
        xy += double(x[c]) * double(y[c]);
        xx += double(x[c]) * double(x[c]);
        yy += double(y[c]) * double(y[c]);
      }
      cosines[row] = xx > 0.0 && yy > 0.0 ? xy / std::sqrt(xx * yy) : (xx == yy ? 1.0 : 0.0);
    }
  });
}

Error not_finite(const std::string& path, const char* rule, std::string where, const char* what) {
  return Error{.exit = Exit::numeric, .rule = rule, .path = path, .where = std::move(where), .what = what};
}

// Runs whole windows through a model without some of its layers.
class LossMeter {
 public:
  LossMeter(Model& model, const CalibrationWindows& windows, std::function<Status(int64_t)> advance)
      : model_(model), windows_(windows), advance_(std::move(advance)) {}

  Status prepare() {
    const int64_t context = windows_.context;
    batch_ = {.sequences = 1, .tokens_per_sequence = context};
    PARE_CHECK(model_.load_all());
    PARE_CHECK(model_.reserve_positions(context));
    const ModelConfig& config = model_.config();
    const size_t bytes = model_.workspace_bytes(batch_, kLogitRows);
    const Device device = model_.device();
    PARE_TRY(workspace_, Workspace::reserve(bytes, device));
    PARE_TRY(entering_, Tensor::allocate(DType::f32, {context, config.hidden_size}, device));
    PARE_TRY(hidden_, Tensor::allocate(DType::f32, {context, config.hidden_size}, device));
    PARE_TRY(logits_, Tensor::allocate(DType::f32, {kLogitRows, config.vocabulary_size}, device));
    PARE_TRY(targets_, Tensor::allocate(DType::i32, {context}, device));
    PARE_TRY(sums_, Tensor::allocate(DType::f64, {kLogitRows}, device));
    PARE_TRY(losses_, Tensor::allocate(DType::f64, {kLogitRows}, device));
    PARE_TRY(best_, Tensor::allocate(DType::i32, {kLogitRows}, device));
    return {};
  }

  // Mean loss without `removed` and without each candidate in turn; the last value is without any candidate.
  Result<std::vector<double>> measure(const std::vector<int64_t>& removed,
                                      const std::vector<int64_t>& candidates) {
    std::vector<double> totals(candidates.size() + 1, 0.0);
    const int64_t layers = model_.config().block_count();
    for (int64_t sample = 0; sample < windows_.samples; ++sample) {
      const int32_t* ids = windows_.ids.data() + sample * windows_.context;
      PARE_CHECK(model_.embed(Tensor::wrap(const_cast<int32_t*>(ids), DType::i32, {windows_.context}), batch_,
                              entering_, workspace_));
      size_t next = 0;
      for (int64_t layer = 0; layer < layers; ++layer) {
        if (next < candidates.size() && candidates[next] == layer) {
          PARE_CHECK(copy_into(entering_, hidden_));
          for (int64_t later = layer + 1; later < layers; ++later)
            if (!std::binary_search(removed.begin(), removed.end(), later))
              PARE_CHECK(model_.run_block(int(later), batch_, hidden_, nullptr, workspace_));
          PARE_TRY(const double loss, loss_of(ids));
          totals[next++] += loss;
        }
        if (!std::binary_search(removed.begin(), removed.end(), layer))
          PARE_CHECK(model_.run_block(int(layer), batch_, entering_, nullptr, workspace_));
      }
      PARE_CHECK(copy_into(entering_, hidden_));
      PARE_TRY(const double loss, loss_of(ids));
      totals.back() += loss;
      PARE_CHECK(advance_(windows_.context));
    }
    const double tokens = double(windows_.samples * (windows_.context - 1));
    for (double& total : totals) {
      total /= tokens;
      if (!std::isfinite(total))
        return not_finite(model_.source().path(), "NU16", "loss of the calibration windows", "not finite");
    }
    return totals;
  }

 private:
  // Sum over the tokens of the window in hidden_ of -log p(next token).
  Result<double> loss_of(const int32_t* ids) {
    double total = 0.0;
    const int64_t predicted = windows_.context - 1;
    PARE_CHECK(copy_into(Tensor::wrap(const_cast<int32_t*>(ids) + 1, DType::i32, {predicted}),
                         targets_.rows(0, predicted)));
    for (int64_t begin = 0; begin < predicted; begin += kLogitRows) {
      const int64_t end = std::min(predicted, begin + kLogitRows), rows = end - begin;
      Tensor logits = logits_.rows(0, rows);
      PARE_CHECK(model_.run_head(hidden_.rows(begin, end), logits, workspace_));
      Tensor sums = sums_.rows(0, rows), losses = losses_.rows(0, rows), best = best_.rows(0, rows);
      ops::cross_entropy(logits, targets_.rows(begin, end), sums, losses, best);
      PARE_TRY(const Tensor seen, moved(losses, Device::cpu()));
      for (int64_t i = 0; i < rows; ++i) total += seen.data<double>()[i];
    }
    return total;
  }

  Model& model_;
  const CalibrationWindows& windows_;
  std::function<Status(int64_t)> advance_;
  Batch batch_;
  Workspace workspace_;
  Tensor entering_, hidden_, logits_, targets_, sums_, losses_, best_;
};

}  // namespace

Result<std::vector<double>> block_influence(std::shared_ptr<const WeightSource> source,
                                            CalibrationWindows windows, PipelineOptions options) {
  const std::string path = source->path();
  const auto edited = std::make_shared<EditedSource>(source);
  PARE_TRY(const auto pipeline,
           BlockPipeline::create(edited, std::move(source), std::move(windows), std::move(options)));
  PARE_CHECK(pipeline->embed());
  std::vector<double> influence;
  std::vector<double> cosines;
  for (int block = 0; block < pipeline->block_count(); ++block) {
    double sum = 0.0;
    int64_t tokens = 0;
    PARE_CHECK(pipeline->pass_block(block, [&](const Tensor& before, const Tensor& after) -> Status {
      cosines.resize(size_t(before.size(0)));
      row_cosines(before, after, cosines.data());
      for (const double cosine : cosines) sum += cosine;
      tokens += before.size(0);
      return {};
    }));
    if (!std::isfinite(sum))
      return not_finite(path, "NU06", fmt::format("block {}", block), "hidden states are not finite");
    influence.push_back(1.0 - sum / double(tokens));
  }
  return influence;
}

std::vector<int64_t> layer_candidates(int64_t layers, int64_t keep_first, int64_t keep_last) {
  std::vector<int64_t> candidates;
  for (int64_t layer = keep_first; layer < layers - keep_last; ++layer) candidates.push_back(layer);
  return candidates;
}

namespace {

Status enough(const std::vector<int64_t>& candidates, int64_t removed) {
  if (removed <= int64_t(candidates.size())) return {};
  return Error{.exit = Exit::usage,
               .rule = "CL12",
               .path = "--structure layers",
               .where = {},
               .what = "more layers to remove than may go; lower --keep-first and --keep-last",
               .got = std::to_string(removed),
               .limit = std::to_string(candidates.size())};
}

}  // namespace

Result<std::vector<int64_t>> keep_layers(const std::vector<double>& scores,
                                         const std::vector<int64_t>& candidates, int64_t keep) {
  const int64_t layers = int64_t(scores.size());
  PARE_CHECK(enough(candidates, layers - keep));
  std::vector<double> candidate_scores;
  for (const int64_t layer : candidates) candidate_scores.push_back(scores[size_t(layer)]);
  const std::vector<int64_t> chosen =
      best_units(candidate_scores, int64_t(candidates.size()) - (layers - keep));
  std::vector<int64_t> removed;
  for (const int64_t index : others(chosen, int64_t(candidates.size())))
    removed.push_back(candidates[size_t(index)]);
  return others(removed, layers);
}

Result<LossRemoval> remove_layers_by_loss(std::shared_ptr<const WeightSource> source,
                                          const CalibrationWindows& windows, std::vector<int64_t> candidates,
                                          int64_t keep, const std::function<Status(int64_t tokens)>& advance,
                                          Device device) {
  PARE_TRY(const auto model, Model::open(std::move(source), device));
  const int64_t layers = model->config().block_count();
  PARE_CHECK(enough(candidates, layers - keep));
  LossMeter meter(*model, windows, advance);
  PARE_CHECK(meter.prepare());
  LossRemoval result;
  std::vector<int64_t> removed;
  while (layers - int64_t(removed.size()) > keep) {
    PARE_TRY(const std::vector<double> losses, meter.measure(removed, candidates));
    if (removed.empty()) result.loss_before = losses.back();
    size_t best = 0;
    for (size_t i = 1; i < candidates.size(); ++i)
      if (losses[i] <= losses[best]) best = i;  // the later one of two
    result.removed.emplace_back(candidates[best], losses[best]);
    removed.insert(std::upper_bound(removed.begin(), removed.end(), candidates[best]), candidates[best]);
    candidates.erase(candidates.begin() + int64_t(best));
  }
  result.kept = others(removed, layers);
  return result;
}

}  // namespace pare
