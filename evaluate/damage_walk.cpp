#include "evaluate/damage_walk.h"

#include <algorithm>

#include "engine/models/expert_slots.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

constexpr Site kSites[] = {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out};

int64_t widest_site(const ModelConfig& config) {
  int64_t widest = config.hidden_size;
  for (const BlockConfig& block : config.blocks)
    widest = std::max({widest, block.heads * block.head_dim, mlp_out_width(block)});
  return widest;
}

}  // namespace

std::vector<WindowGroup> window_groups(std::span<const EvaluationWindow> windows, int64_t batch_tokens) {
  std::vector<WindowGroup> groups;
  int64_t row = 0;
  for (size_t first = 0; first < windows.size();) {
    const int64_t length = windows[first].length;
    const size_t most = size_t(std::max<int64_t>(1, batch_tokens / length));
    size_t count = 1;
    while (count < most && first + count < windows.size() && windows[first + count].length == length) ++count;
    groups.push_back({.first = first,
                      .count = count,
                      .row = row,
                      .batch = {.sequences = int64_t(count), .tokens_per_sequence = length}});
    row += groups.back().batch.tokens();
    first += count;
  }
  return groups;
}

// The staged walk holds the normed input and the input of one site on top of what a block needs.
size_t walk_workspace_bytes(const Model& model, const std::vector<WindowGroup>& groups, int64_t logit_rows) {
  size_t bytes = 0;
  for (const WindowGroup& group : groups) {
    const int64_t tokens = group.batch.tokens();
    bytes = std::max(bytes, model.workspace_bytes(group.batch, logit_rows) +
                                Workspace::bytes_for(DType::f32, {tokens, model.config().hidden_size}) +
                                Workspace::bytes_for(DType::f32, {tokens, widest_site(model.config())}));
  }
  return bytes;
}

Result<DamageWalk> DamageWalk::open(std::shared_ptr<const WeightSource> source,
                                    const std::vector<WindowGroup>& groups, int64_t logit_rows,
                                    Device device) {
  DamageWalk walk;
  PARE_TRY(walk.model_, Model::open(std::move(source), device));
  const ModelConfig& config = walk.model_->config();
  const int64_t rows = groups.empty() ? 0 : groups.back().row + groups.back().batch.tokens();
  int64_t longest = 0;
  for (const WindowGroup& group : groups) longest = std::max(longest, group.batch.tokens_per_sequence);
  PARE_CHECK(walk.model_->reserve_positions(longest));
  PARE_TRY(walk.hidden_, Tensor::allocate(DType::f32, {rows, config.hidden_size}, device));
  PARE_TRY(walk.logits_, Tensor::allocate(DType::f32, {logit_rows, config.vocabulary_size}, device));
  PARE_TRY(walk.workspace_,
           Workspace::reserve(walk_workspace_bytes(*walk.model_, groups, logit_rows), device));
  return walk;
}

Status DamageWalk::embed(const Tensor& ids, const std::vector<WindowGroup>& groups) {
  PARE_CHECK(model_->load_embedding());
  for (const WindowGroup& group : groups) {
    const int64_t end = group.row + group.batch.tokens();
    Tensor hidden = hidden_.rows(group.row, end);
    PARE_CHECK(model_->embed(ids.rows(group.row, end), group.batch, hidden, workspace_));
  }
  model_->drop_embedding();
  return {};
}

Status DamageWalk::run_block(int index, const std::vector<WindowGroup>& groups,
                             std::map<Site, MagnitudeHistogram>* histograms,
                             const std::function<Status(int64_t)>& advance, const NextBlock& next) {
  PARE_CHECK(model_->load_block(index));
  next.walk.model_->prefetch_block(next.index);
  for (const WindowGroup& group : groups) {
    Tensor hidden = hidden_.rows(group.row, group.row + group.batch.tokens());
    if (histograms == nullptr) {
      PARE_CHECK(model_->run_block(index, group.batch, hidden, nullptr, workspace_));
    } else {
      PARE_CHECK(run_stages(index, group.batch, hidden, *histograms));
    }
    PARE_CHECK(advance(group.batch.tokens()));
  }
  model_->drop_block(index);
  return {};
}

// The same bytes as Model::run_block(), with a look at the input of every linear. Of a mixture's downs all
// experts together.
Status DamageWalk::run_stages(int index, const Batch& batch, Tensor& hidden,
                              std::map<Site, MagnitudeHistogram>& histograms) {
  const Workspace::Scope scope(workspace_);
  Tensor normed = workspace_.take(DType::f32, hidden.shape());
  for (const Site site : kSites) {
    const Workspace::Scope site_scope(workspace_);
    const bool is_normed = site == Site::attention_in || site == Site::mlp_in;
    Tensor x = is_normed ? normed
                         : workspace_.take(DType::f32, {batch.tokens(), model_->site_channels(index, site)});
    PARE_CHECK(model_->produce(index, site, batch, is_normed ? hidden : normed, x, workspace_));
    const BlockConfig& shape = model_->config().blocks[size_t(index)];
    const bool has_slots = site == Site::mlp_out && shape.is_mixture();
    PARE_TRY(const Tensor seen, moved(x, Device::cpu()));
    if (!has_slots) histograms[site].add(seen);
    if (!is_normed) model_->consume(index, site, x, hidden, workspace_);
    if (has_slots) histograms[site].add(ExpertSlots::of(shape).compact(seen));
  }
  return {};
}

Result<Tensor> DamageWalk::logits(int64_t begin, int64_t end) {
  Tensor out = logits_.rows(0, end - begin);
  PARE_CHECK(model_->run_head(hidden_.rows(begin, end), out, workspace_));
  return out;
}

}  // namespace pare
