// The last site of a mixture of experts: one input per expert, with the tokens that chose it.
#include <fmt/core.h>

#include "calibrate/observer.h"
#include "calibrate/pipeline_stream.h"
#include "calibrate/second_moment.h"
#include "engine/core/memory.h"
#include "engine/models/expert_slots.h"

namespace pare {

// Brings all chunks to mlp_out, then gives every expert its statistics and its turn. The slots that were made
// stay: which experts a token goes to was decided by the stage before.
Status BlockPipeline::compress_experts(int index, Step& step, BlockEdit& edit) {
  for (int64_t chunk = 0; chunk < stream_->hidden.chunks(); ++chunk) {
    const Workspace::Scope scope(workspace_);
    Tensor x;
    PARE_CHECK(visit(index, *stream_, Site::mlp_out, chunk, x));
    PARE_CHECK(options_.advance(x.size(0)));
  }
  const StatisticSet wanted = step.wanted(index, Site::mlp_out);
  for (int expert = 0; expert < int(stream_->shape(index).experts); ++expert) {
    SiteStatistics statistics;
    PARE_CHECK(collect_expert(index, expert, wanted, statistics));
    sample_private_bytes();
    PARE_CHECK(step.compress(
        edit, {.site = Site::mlp_out, .statistics = statistics, .cross_moment = {}, .expert = expert}));
  }
  return {};
}

Status BlockPipeline::collect_expert(int index, int expert, StatisticSet wanted, SiteStatistics& statistics) {
  const ExpertSlots slots = ExpertSlots::of(stream_->shape(index));
  statistics = start_site(wanted, slots.channels);
  const bool has_moment = wanted.has(Statistic::second_moment);
  if (has_moment) {
    PARE_TRY(statistics.second_moment, Tensor::allocate(DType::f32, {slots.channels, slots.channels}));
  }
  if (wanted.empty()) return {};
  const int passes = wanted.has(Statistic::histogram) ? 2 : 1;
  for (int pass = 0; pass < passes; ++pass) {
    if (pass == 1) {
      if (statistics.tokens == 0) break;
      PARE_TRY(const double limit,
               options_.histogram_limit(index, Site::mlp_out, largest_magnitude(statistics)));
      start_histogram(statistics, limit);
    }
    for (int64_t chunk = 0; chunk < stream_->hidden.chunks(); ++chunk) {
      const Workspace::Scope scope(workspace_);
      const int64_t tokens = chunk_rows_[size_t(chunk)], context = windows_.context;
      PARE_TRY(const Tensor rows,
               stream_->inner->read(chunk, workspace_.take(DType::f32, {tokens, slots.row_width()})));
      Tensor all = workspace_.take(DType::f32, {tokens, slots.channels});
      int64_t count = 0;
      // A window's tokens are one sample, however many of them chose the expert.
      for (int64_t first = 0; first < tokens; first += context) {
        Tensor left = all.rows(count, tokens);
        const int64_t found = slots.gather(rows, first, first + context, expert, left);
        const Tensor x = all.rows(count, count + found);
        count += found;
        if (found == 0 || pass == 1) continue;
        Status seen = observe(statistics, wanted, x, found);
        if (seen) continue;
        Error error = seen.error();
        error.path = source_->path();
        error.where = fmt::format("block {} {} sample {} {}", index, site_text(Site::mlp_out, expert),
                                  chunk * samples_per_chunk_ + first / context, error.where);
        return error;
      }
      if (count == 0) continue;
      if (pass == 1) {
        PARE_CHECK(observe_histogram(statistics, all.rows(0, count)));
      } else if (has_moment) {
        add_moment_of_rows(all.rows(0, count), statistics.second_moment, workspace_);
      }
    }
  }
  if (has_moment) finish_second_moment(statistics.second_moment);
  return {};
}

Status BlockPipeline::pass_experts(int index, const std::function<Status(const ExpertOutputs&)>& look) {
  const BlockConfig& shape = stream_->shape(index);
  if (!shape.is_mixture())
    return Error{.exit = Exit::unsupported,
                 .rule = "CF10",
                 .path = source_->path(),
                 .where = fmt::format("block {}", index),
                 .what = "not a mixture of experts",
                 .got = {},
                 .limit = {}};
  const ExpertSlots slots = ExpertSlots::of(shape);
  Model& model = *stream_->model;
  PARE_CHECK(load_blocks(index, /*original=*/false));
  for (int64_t chunk = 0; chunk < stream_->hidden.chunks(); ++chunk) {
    const Workspace::Scope scope(workspace_);
    const Batch rows = batch(chunk);
    const int64_t tokens = rows.tokens(), hidden_size = stream_->hidden.channels();
    PARE_TRY(Tensor hidden, stream_->hidden.read(chunk, workspace_.take(DType::f32, {tokens, hidden_size})));
    Tensor normed = workspace_.take(DType::f32, {tokens, hidden_size});
    Tensor mixed = workspace_.take(DType::f32, {tokens, model.site_channels(index, Site::attention_out)});
    Tensor inner = workspace_.take(DType::f32, {tokens, slots.row_width()});
    PARE_CHECK(model.produce(index, Site::attention_in, rows, hidden, normed, workspace_));
    PARE_CHECK(model.produce(index, Site::attention_out, rows, normed, mixed, workspace_));
    model.consume(index, Site::attention_out, mixed, hidden, workspace_);
    PARE_CHECK(model.produce(index, Site::mlp_in, rows, hidden, normed, workspace_));
    PARE_CHECK(model.produce(index, Site::mlp_out, rows, normed, inner, workspace_));
    Tensor all_values = workspace_.take(DType::f32, {tokens, slots.channels});
    std::vector<float> shares;
    for (int expert = 0; expert < int(shape.experts); ++expert) {
      const int64_t count = slots.gather(inner, 0, tokens, expert, all_values);
      if (count == 0) continue;
      slots.shares(inner, expert, shares);
      // The input of the block's second half is not needed any more.
      Tensor outputs = normed.rows(0, count);
      model.expert_output(index, expert, all_values.rows(0, count), outputs, workspace_);
      PARE_CHECK(look({.expert = expert, .shares = shares, .outputs = outputs}));
    }
    model.consume(index, Site::mlp_out, inner, hidden, workspace_);
    PARE_CHECK(stream_->hidden.write(chunk, hidden));
    PARE_CHECK(options_.advance(tokens));
  }
  model.drop_block(index);
  return {};
}

}  // namespace pare
