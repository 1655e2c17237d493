#include "calibrate/block_pipeline.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <utility>

#include "calibrate/pipeline_stream.h"
#include "calibrate/second_moment.h"
#include "calibrate/site_observer.h"
#include "engine/core/memory.h"
#include "engine/core/text.h"
#include "engine/models/expert_slots.h"
#include "engine/tensor/scale_search.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

constexpr std::array kSites = {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out};

// Rows of a chunk: part of the result (sums are made chunk by chunk), so the same on every machine.
constexpr int64_t kChunkTokens = kMomentTokens;

int64_t widest_site(const ModelConfig& config) {
  int64_t widest = config.hidden_size;
  for (const BlockConfig& block : config.blocks)
    widest = std::max({widest, block.intermediate_size, block.heads * block.head_dim});
  return widest;
}

// Of a row in the stores: wider than any site where a row has the slots of several experts.
int64_t widest_row(const ModelConfig& config) {
  int64_t widest = widest_site(config);
  for (const BlockConfig& block : config.blocks) widest = std::max(widest, mlp_out_width(block));
  return widest;
}

int64_t samples_per_chunk(int64_t context) {
  return std::max<int64_t>(1, kChunkTokens / context);
}

size_t workspace_bytes(const Model& model, int64_t context) {
  const int64_t samples = samples_per_chunk(context), tokens = samples * context;
  const int64_t widest = widest_site(model.config());
  const size_t chunk = Workspace::bytes_for(DType::f32, {tokens, widest_row(model.config())});
  const size_t hidden = Workspace::bytes_for(DType::f32, {tokens, model.config().hidden_size});
  const size_t run = model.workspace_bytes({.sequences = samples, .tokens_per_sequence = context}, 0);
  const size_t moment =
      second_moment_workspace_bytes(std::min(tokens, kMomentTokens), widest, model.device());
  // Two streams: hidden state, normed input and stage input of each.
  return std::max(run, moment) + 4 * chunk + 2 * hidden;
}

Error mixture_error(const WeightSource& source, std::string what) {
  return Error{.exit = Exit::unsupported,
               .rule = "CF10",
               .path = source.path(),
               .where = "mixture of experts",
               .what = std::move(what),
               .got = {},
               .limit = {}};
}

}  // namespace

uint64_t pipeline_floor_bytes(const Model& model, int64_t context, bool original_stream) {
  uint64_t largest_block = 0, statistics = 0;
  std::vector<uint64_t> blocks(size_t(model.config().block_count()), 0);
  for (const TensorSpec& spec : model.description().tensors) {
    if (spec.block < 0 || spec.block >= int(blocks.size())) continue;
    // The matrix as it is, as floats while it is worked on, and its codes.
    blocks[size_t(spec.block)] += uint64_t(spec.shape.numel()) * 3;
  }
  for (const uint64_t bytes : blocks) largest_block = std::max(largest_block, bytes);
  const uint64_t widest = uint64_t(widest_site(model.config()));
  // H, its factor and the matrix being factored in double; the cross moment.
  statistics = widest * widest * (4 + 4 + 8 + 8 + (original_stream ? 8 : 0));
  uint64_t largest_matrix = 0;
  for (const TensorSpec& spec : model.description().tensors)
    if (spec.is_linear) largest_matrix = std::max(largest_matrix, uint64_t(spec.shape.numel()));
  // The readers of one site are looked at together; in a mixture they are those of all experts.
  uint64_t readers = 2;
  for (const BlockConfig& block : model.config().blocks)
    readers = std::max(readers, 2 * uint64_t(block.experts));
  const uint64_t matrices = largest_matrix * 4 * (4 + readers);
  return workspace_bytes(model, context) + statistics + matrices + largest_block * (original_stream ? 2 : 1);
}

uint64_t pipeline_device_bytes(const Model& model, int64_t context, bool original_stream) {
  // Weights as they are multiplied with, at most floats; twice while a part is loaded again.
  uint64_t largest_block = 0, largest_matrix = 0;
  std::vector<uint64_t> blocks(size_t(model.config().block_count()), 0);
  for (const TensorSpec& spec : model.description().tensors) {
    const uint64_t bytes = uint64_t(spec.shape.numel()) * sizeof(float);
    if (spec.is_linear) largest_matrix = std::max(largest_matrix, bytes);
    if (spec.block >= 0 && spec.block < int(blocks.size())) blocks[size_t(spec.block)] += bytes;
  }
  for (const uint64_t bytes : blocks) largest_block = std::max(largest_block, bytes);
  const uint64_t widest = uint64_t(widest_site(model.config()));
  // H, its factor and two matrices of doubles while it is factored; the cross moment.
  const uint64_t statistics = widest * widest * (4 + 4 + 16 + (original_stream ? 4 : 0));
  // Of the matrix that is solved: itself, plain and swept values, in both orders, and codes. Of one whose
  // scales are searched: itself, the errors of several scales, and a part of it for their sums.
  const uint64_t matrices = std::max<uint64_t>(7, uint64_t(kScalesAtOnce) + 2);
  return workspace_bytes(model, context) + statistics + largest_matrix * matrices +
         largest_block * (original_stream ? 2 : 1) + (uint64_t(64) << 20);
}

BlockPipeline::BlockPipeline() = default;
BlockPipeline::~BlockPipeline() = default;

namespace {

Error device_too_small(Device device, uint64_t limit, uint64_t need) {
  return Error{.exit = Exit::resource,
               .rule = "RL06",
               .path = device.name(),
               .where = {},
               .what = "one block with its statistics does not fit; raise --max-vram, or lower --context",
               .got = format_bytes(limit),
               .limit = format_bytes(need),
               .limit_label = "need"};
}

}  // namespace

Result<std::unique_ptr<BlockPipeline>> BlockPipeline::create(std::shared_ptr<EditedSource> source,
                                                             std::shared_ptr<const WeightSource> original,
                                                             CalibrationWindows windows,
                                                             PipelineOptions options) {
  PARE_ASSERT(windows.samples > 0 && windows.context > 0 &&
                  int64_t(windows.ids.size()) == windows.samples * windows.context,
              "[block_pipeline] {} ids for {} x {}", windows.ids.size(), windows.samples, windows.context);
  std::unique_ptr<BlockPipeline> pipeline(new BlockPipeline());
  pipeline->windows_ = std::move(windows);
  pipeline->options_ = std::move(options);
  pipeline->source_ = source;
  const int64_t context = pipeline->windows_.context;
  pipeline->samples_per_chunk_ = samples_per_chunk(context);
  for (int64_t first = 0; first < pipeline->windows_.samples; first += pipeline->samples_per_chunk_) {
    const int64_t samples = std::min(pipeline->samples_per_chunk_, pipeline->windows_.samples - first);
    pipeline->chunk_rows_.push_back(samples * context);
  }

  pipeline->stream_ = std::make_unique<Stream>();
  const Device device = pipeline->options_.device;
  PARE_TRY(pipeline->stream_->model, Model::open(source, device));
  if (pipeline->options_.original_stream) {
    pipeline->original_ = std::make_unique<Stream>();
    PARE_TRY(pipeline->original_->model, Model::open(std::move(original), device));
    for (const BlockConfig& block : pipeline->original_->model->config().blocks) {
      if (block.is_mixture())
        return mixture_error(*source,
                             "a token may go to other experts than in the original model, so the "
                             "inputs of their experts cannot be compared");
    }
  }
  // The original is the larger one.
  const Model& widest =
      pipeline->original_ != nullptr ? *pipeline->original_->model : *pipeline->stream_->model;
  const uint64_t floor = pipeline_floor_bytes(widest, context, pipeline->options_.original_stream);
  const uint64_t used = resident_bytes();
  const uint64_t limit = pipeline->options_.memory_limit;
  MemoryBudget budget{.left = limit > used + floor ? limit - used - floor : 0,
                      .spill_folder = pipeline->options_.spill_folder};
  // Pages that are read ahead are clean, and stay out of the plan of a host; it is only that where nothing is
  // left over they would drive out others that are needed sooner.
  uint64_t ahead = 0;
  for (const Stream* stream : {pipeline->stream_.get(), pipeline->original_.get()})
    if (stream != nullptr) ahead += stream->model->prefetch_bytes();
  pipeline->prefetches_ = ahead > 0 && budget.left >= ahead;
  if (!device.is_host()) {
    const uint64_t need = pipeline_device_bytes(widest, context, pipeline->options_.original_stream);
    if (pipeline->options_.device_limit < need)
      return device_too_small(device, pipeline->options_.device_limit, need);
    budget.device_left = pipeline->options_.device_limit - need;
    pipeline->prefetches_ = pipeline->prefetches_ && budget.device_left >= ahead;
    if (pipeline->prefetches_) budget.device_left -= ahead;
  }
  PARE_TRY(pipeline->workspace_, Workspace::reserve(workspace_bytes(widest, context), device));
  for (Stream* stream : {pipeline->stream_.get(), pipeline->original_.get()}) {
    if (stream == nullptr) continue;
    PARE_CHECK(stream->model->reserve_positions(context));
    PARE_TRY(stream->hidden, ActivationStore::create(pipeline->chunk_rows_,
                                                     stream->model->config().hidden_size, budget, device));
  }
  for (Stream* stream : {pipeline->stream_.get(), pipeline->original_.get()}) {
    if (stream == nullptr) continue;
    // Equal in all of them: checked when a block is run.
    const BlockConfig& block = stream->model->config().blocks.front();
    PARE_TRY(stream->mixed,
             ActivationStore::create(pipeline->chunk_rows_, block.heads * block.head_dim, budget, device));
    PARE_TRY(stream->inner,
             ActivationStore::create(pipeline->chunk_rows_, mlp_out_width(block), budget, device));
  }
  return pipeline;
}

int BlockPipeline::block_count() const {
  return int(stream_->model->config().block_count());
}

Model& BlockPipeline::model() {
  return *stream_->model;
}

Batch BlockPipeline::batch(int64_t chunk) const {
  return {.sequences = chunk_rows_[size_t(chunk)] / windows_.context,
          .tokens_per_sequence = windows_.context};
}

Status BlockPipeline::embed() {
  for (Stream* stream : {stream_.get(), original_.get()}) {
    if (stream == nullptr) continue;
    PARE_CHECK(stream->model->load_embedding());
    for (int64_t chunk = 0; chunk < stream->hidden.chunks(); ++chunk) {
      const Workspace::Scope scope(workspace_);
      const int64_t first = chunk * samples_per_chunk_ * windows_.context;
      const Tensor ids = Tensor::wrap(windows_.ids.data() + first, DType::i32, {chunk_rows_[size_t(chunk)]});
      const Tensor scratch =
          workspace_.take(DType::f32, {chunk_rows_[size_t(chunk)], stream->hidden.channels()});
      Tensor hidden = stream->hidden.place(chunk, scratch);
      PARE_CHECK(stream->model->embed(ids, batch(chunk), hidden, workspace_));
      PARE_CHECK(stream->hidden.write(chunk, hidden));
    }
    stream->model->drop_embedding();
  }
  return {};
}

// Brings one chunk of a stream from the site before to `site` and gives the input of its linears in x, a view
// of a store or of the workspace. The caller's scope owns what is taken from the workspace.
Status BlockPipeline::visit(int index, Stream& stream, Site site, int64_t chunk, Tensor& x) {
  Model& model = *stream.model;
  const Batch rows = batch(chunk);
  const int64_t tokens = rows.tokens(), hidden_size = stream.hidden.channels();
  const Tensor hidden_scratch = workspace_.take(DType::f32, {tokens, hidden_size});
  PARE_TRY(Tensor hidden, stream.hidden.read(chunk, hidden_scratch));
  if (site == Site::attention_out || site == Site::mlp_out) {
    const bool is_attention = site == Site::attention_out;
    ActivationStore& store = is_attention ? *stream.mixed : *stream.inner;
    const Tensor scratch = workspace_.take(DType::f32, {tokens, store.channels()});
    x = store.place(chunk, scratch);
    const Workspace::Scope scope(workspace_);
    Tensor normed = workspace_.take(DType::f32, {tokens, hidden_size});
    PARE_CHECK(model.produce(index, is_attention ? Site::attention_in : Site::mlp_in, rows, hidden, normed,
                             workspace_));
    PARE_CHECK(model.produce(index, site, rows, normed, x, workspace_));
    return store.write(chunk, x);
  }
  x = workspace_.take(DType::f32, {tokens, hidden_size});
  if (site == Site::mlp_in) {
    const Workspace::Scope scope(workspace_);
    const Tensor scratch = workspace_.take(DType::f32, {tokens, stream.mixed->channels()});
    PARE_TRY(const Tensor mixed, stream.mixed->read(chunk, scratch));
    model.consume(index, Site::attention_out, mixed, hidden, workspace_);
    PARE_CHECK(stream.hidden.write(chunk, hidden));
  }
  return model.produce(index, site, rows, hidden, x, workspace_);
}

// The same input once more, after visit().
Result<Tensor> BlockPipeline::input_again(int index, Stream& stream, Site site, int64_t chunk) {
  const Batch rows = batch(chunk);
  if (site == Site::attention_out || site == Site::mlp_out) {
    ActivationStore& store = site == Site::attention_out ? *stream.mixed : *stream.inner;
    return store.read(chunk, workspace_.take(DType::f32, {rows.tokens(), store.channels()}));
  }
  const Tensor scratch = workspace_.take(DType::f32, {rows.tokens(), stream.hidden.channels()});
  Tensor x = workspace_.take(DType::f32, {rows.tokens(), stream.hidden.channels()});
  PARE_TRY(const Tensor hidden, stream.hidden.read(chunk, scratch));
  PARE_CHECK(stream.model->produce(index, site, rows, hidden, x, workspace_));
  return x;
}

namespace {

// Adds where a value that is not finite was met: block, site and sample.
Error locate(Error error, const std::string& path, int index, Site site, int64_t first_sample,
             int64_t context) {
  error.path = path;
  // observe() names [row,channel] of the chunk.
  int64_t row = 0;
  const size_t open = error.where.find('[');
  if (open != std::string::npos) row = std::strtoll(error.where.c_str() + open + 1, nullptr, 10);
  error.where = fmt::format("block {} {} sample {} token {} {}", index, site_name(site),
                            first_sample + row / context, row % context, error.where);
  return error;
}

}  // namespace

void add_moment_of_rows(const Tensor& x, Tensor& moment, Workspace& workspace) {
  for (int64_t begin = 0; begin < x.size(0); begin += kMomentTokens)
    add_second_moment(x.rows(begin, std::min(x.size(0), begin + kMomentTokens)), moment, workspace);
}

Status BlockPipeline::collect(int index, Site site, StatisticSet wanted, bool cross,
                              SiteStatistics& statistics, Tensor& cross_moment) {
  const int64_t channels = stream_->model->site_channels(index, site);
  PARE_TRY(SiteObserver observer, SiteObserver::create(options_.device, wanted, channels, windows_.samples,
                                                       stream_->hidden.chunks()));
  if (cross) {
    const int64_t original_channels = original_->model->site_channels(index, site);
    PARE_TRY(cross_moment, Tensor::allocate(DType::f32, {original_channels, channels}, options_.device));
  }
  const auto located = [&](const Error& error) {
    return locate(error, source_->path(), index, site, observer.bad_batch() * samples_per_chunk_,
                  windows_.context);
  };
  for (int64_t chunk = 0; chunk < stream_->hidden.chunks(); ++chunk) {
    const Workspace::Scope scope(workspace_);
    Tensor x, original;
    PARE_CHECK(visit(index, *stream_, site, chunk, x));
    const Status seen = observer.observe(x, windows_.context, workspace_);
    if (!seen) return located(seen.error());
    if (original_ != nullptr) PARE_CHECK(visit(index, *original_, site, chunk, original));
    if (cross) {
      for (int64_t begin = 0; begin < x.size(0); begin += kMomentTokens) {
        const int64_t end = std::min(x.size(0), begin + kMomentTokens);
        add_cross_moment(original.rows(begin, end), x.rows(begin, end), cross_moment, workspace_);
      }
    }
    PARE_CHECK(options_.advance(x.size(0)));
  }
  const Status finished = observer.finish(statistics);
  if (!finished) return located(finished.error());
  if (wanted.has(Statistic::histogram)) PARE_CHECK(second_pass(index, site, statistics));
  return {};
}

Status BlockPipeline::second_pass(int index, Site site, SiteStatistics& statistics) {
  PARE_TRY(const double limit, options_.histogram_limit(index, site, largest_magnitude(statistics)));
  start_histogram(statistics, limit);
  PARE_TRY(SiteHistogram histogram, SiteHistogram::create(options_.device, statistics));
  for (int64_t chunk = 0; chunk < stream_->hidden.chunks(); ++chunk) {
    const Workspace::Scope scope(workspace_);
    PARE_TRY(const Tensor x, input_again(index, *stream_, site, chunk));
    PARE_CHECK(histogram.observe(x));
  }
  return histogram.finish();
}

// Shows the inputs of all sites of the block as it is, without moving the stores on.
Status BlockPipeline::survey_pass(
    int index, const std::function<Status(Site site, int64_t chunk, const Tensor& x)>& look,
    bool counts_progress) {
  Model& model = *stream_->model;
  for (int64_t chunk = 0; chunk < stream_->hidden.chunks(); ++chunk) {
    const Batch rows = batch(chunk);
    const Workspace::Scope scope(workspace_);
    Tensor hidden = workspace_.take(DType::f32, {rows.tokens(), stream_->hidden.channels()});
    {
      PARE_TRY(const Tensor stored, stream_->hidden.read(chunk, hidden));
      if (stored.raw() != hidden.raw()) PARE_CHECK(copy_into(stored, hidden));
    }
    Tensor normed = workspace_.take(DType::f32, hidden.shape());
    for (const Site site : kSites) {
      const Workspace::Scope site_scope(workspace_);
      const bool is_normed = site == Site::attention_in || site == Site::mlp_in;
      Tensor x =
          is_normed ? normed : workspace_.take(DType::f32, {rows.tokens(), model.site_channels(index, site)});
      PARE_CHECK(model.produce(index, site, rows, is_normed ? hidden : normed, x, workspace_));
      PARE_CHECK(look(site, chunk, x));
      if (!is_normed) model.consume(index, site, x, hidden, workspace_);
    }
    PARE_CHECK(options_.advance(counts_progress ? rows.tokens() : 0));
  }
  return {};
}

Status BlockPipeline::survey(int index, const std::function<StatisticSet(Site)>& asked,
                             std::map<Site, SiteStatistics>& statistics) {
  const bool is_mixture = stream_->shape(index).is_mixture();
  const auto has_slots = [=](Site site) { return is_mixture && site == Site::mlp_out; };
  const auto wanted = [&](Site site) { return has_slots(site) ? StatisticSet() : asked(site); };
  std::map<Site, SiteObserver> observers;
  bool has_histogram = false;
  for (const Site site : kSites) {
    const int64_t channels = stream_->model->site_channels(index, site);
    statistics[site] = start_site(wanted(site), channels);
    has_histogram = has_histogram || wanted(site).has(Statistic::histogram);
    if (has_slots(site)) continue;
    PARE_TRY(SiteObserver observer, SiteObserver::create(options_.device, wanted(site), channels,
                                                         windows_.samples, stream_->hidden.chunks()));
    observers.emplace(site, std::move(observer));
  }
  const auto located = [&](const Error& error, Site site, int64_t batch) {
    return locate(error, source_->path(), index, site, batch * samples_per_chunk_, windows_.context);
  };
  PARE_CHECK(survey_pass(
      index,
      [&](Site site, int64_t chunk, const Tensor& x) -> Status {
        if (has_slots(site)) return {};
        const Status seen = observers.at(site).observe(x, windows_.context, workspace_);
        if (!seen) return located(seen.error(), site, chunk);
        return {};
      },
      /*counts_progress=*/true));
  for (auto& [site, observer] : observers) {
    const Status finished = observer.finish(statistics[site]);
    if (!finished) return located(finished.error(), site, observer.bad_batch());
  }
  if (!has_histogram) return {};
  // Histograms need the largest magnitude first: a second walk over the block.
  std::map<Site, SiteHistogram> histograms;
  for (const Site site : kSites) {
    if (!wanted(site).has(Statistic::histogram)) continue;
    start_histogram(statistics[site], largest_magnitude(statistics[site]));
    PARE_TRY(SiteHistogram histogram, SiteHistogram::create(options_.device, statistics[site]));
    histograms.emplace(site, std::move(histogram));
  }
  PARE_CHECK(survey_pass(
      index,
      [&](Site site, int64_t, const Tensor& x) -> Status {
        const auto histogram = histograms.find(site);
        return histogram == histograms.end() ? Status() : histogram->second.observe(x);
      },
      /*counts_progress=*/false));
  for (auto& [site, histogram] : histograms) PARE_CHECK(histogram.finish());
  return {};
}

Status BlockPipeline::load_blocks(int index, bool original) {
  Model* const other = original && original_ != nullptr ? original_->model.get() : nullptr;
  PARE_CHECK(stream_->model->load_block(index));
  if (other != nullptr) PARE_CHECK(other->load_block(index));
  if (prefetches_) Model::prefetch_blocks({stream_->model.get(), other}, index + 1);
  return {};
}

Status BlockPipeline::finish_block(int index, Stream& stream) {
  for (int64_t chunk = 0; chunk < stream.hidden.chunks(); ++chunk) {
    const Workspace::Scope scope(workspace_);
    const int64_t tokens = chunk_rows_[size_t(chunk)];
    const Tensor hidden_scratch = workspace_.take(DType::f32, {tokens, stream.hidden.channels()});
    const Tensor inner_scratch = workspace_.take(DType::f32, {tokens, stream.inner->channels()});
    PARE_TRY(Tensor hidden, stream.hidden.read(chunk, hidden_scratch));
    PARE_TRY(const Tensor inner, stream.inner->read(chunk, inner_scratch));
    stream.model->consume(index, Site::mlp_out, inner, hidden, workspace_);
    PARE_CHECK(stream.hidden.write(chunk, hidden));
  }
  stream.model->drop_block(index);
  return {};
}

// Factors of a matrix have an activation of their own between them.
Status BlockPipeline::fit_workspace() {
  const size_t need = workspace_bytes(*stream_->model, windows_.context);
  if (need <= workspace_.capacity()) return {};
  PARE_ASSERT(workspace_.used() == 0, "[block_pipeline] {} bytes of workspace in use", workspace_.used());
  workspace_ = Workspace();  // freed before its successor is made
  PARE_TRY(workspace_, Workspace::reserve(need, options_.device));
  return {};
}

namespace {

// A moment as the step takes it.
Status hand_over(const Step& step, Tensor& moment) {
  if (step.takes_device_moments()) return {};
  PARE_TRY(moment, moved(moment, Device::cpu()));
  return {};
}

}  // namespace

Status BlockPipeline::run_block(int index, Step& step) {
  const bool is_mixture = stream_->shape(index).is_mixture();
  if (is_mixture && !step.takes_experts())
    return mixture_error(*source_, "this method does not look at experts one by one yet");
  PARE_CHECK(load_blocks(index, /*original=*/true));
  BlockEdit edit(*stream_->model, *source_, index);
  bool has_survey = false;
  for (const Site site : kSites) has_survey = has_survey || !step.survey(index, site).empty();
  std::map<Site, SiteStatistics> before;
  if (has_survey) {
    PARE_CHECK(survey(
        index, [&](Site site) { return step.survey(index, site); }, before));
    if (!step.takes_device_surveys()) {
      for (auto& [site, statistics] : before) {
        PARE_TRY(statistics.second_moment, moved(statistics.second_moment, Device::cpu()));
      }
    }
  }
  PARE_CHECK(step.edit(edit, before));
  PARE_CHECK(fit_workspace());
  before.clear();
  for (const Site site : kSites) {
    if (is_mixture && site == Site::mlp_out) {
      PARE_CHECK(compress_experts(index, step, edit));
      continue;
    }
    SiteStatistics statistics;
    Tensor cross_moment;
    const bool cross = original_ != nullptr && step.wants_cross_moment();
    PARE_CHECK(collect(index, site, step.wanted(index, site), cross, statistics, cross_moment));
    sample_private_bytes();
    PARE_CHECK(hand_over(step, statistics.second_moment));
    PARE_CHECK(hand_over(step, cross_moment));
    PARE_CHECK(step.compress(edit, {.site = site, .statistics = statistics, .cross_moment = cross_moment}));
    PARE_CHECK(fit_workspace());
  }
  PARE_CHECK(finish_block(index, *stream_));
  if (original_ != nullptr) PARE_CHECK(finish_block(index, *original_));
  return {};
}

Status BlockPipeline::observe_block(int index, const std::function<StatisticSet(Site)>& wanted,
                                    std::map<Site, SiteStatistics>& statistics) {
  if (stream_->shape(index).is_mixture())
    return mixture_error(*source_,
                         "statistics of its experts are not kept apart from a run; give the data to "
                         "the command that uses them");
  PARE_CHECK(load_blocks(index, /*original=*/false));
  for (const Site site : kSites) {
    Tensor none;
    PARE_CHECK(collect(index, site, wanted(site), false, statistics[site], none));
    PARE_TRY(statistics[site].second_moment, moved(statistics[site].second_moment, Device::cpu()));
  }
  return finish_block(index, *stream_);
}

Status BlockPipeline::pass_block(int index, const std::function<Status(const Tensor&, const Tensor&)>& look) {
  PARE_CHECK(load_blocks(index, /*original=*/false));
  for (int64_t chunk = 0; chunk < stream_->hidden.chunks(); ++chunk) {
    const Workspace::Scope scope(workspace_);
    const Shape shape{chunk_rows_[size_t(chunk)], stream_->hidden.channels()};
    const Tensor scratch = workspace_.take(DType::f32, shape);
    Tensor after = workspace_.take(DType::f32, shape);
    PARE_TRY(const Tensor before, stream_->hidden.read(chunk, scratch));
    PARE_CHECK(copy_into(before, after));
    PARE_CHECK(stream_->model->run_block(index, batch(chunk), after, nullptr, workspace_));
    PARE_TRY(const Tensor seen_before, moved(before, Device::cpu()));
    PARE_TRY(const Tensor seen_after, moved(after, Device::cpu()));
    PARE_CHECK(look(seen_before, seen_after));
    PARE_CHECK(stream_->hidden.write(chunk, after));
    PARE_CHECK(options_.advance(shape[0]));
  }
  stream_->model->drop_block(index);
  return {};
}

int64_t BlockPipeline::state_chunks() const {
  return int64_t(chunk_rows_.size()) * (original_ != nullptr ? 2 : 1);
}

Result<Tensor> BlockPipeline::state_chunk(int64_t index) {
  const int64_t chunks = int64_t(chunk_rows_.size());
  const ActivationStore& store = index < chunks ? stream_->hidden : original_->hidden;
  const int64_t chunk = index % chunks;
  // Valid until the next call that takes from the workspace.
  const Workspace::Scope scope(workspace_);
  const Tensor scratch = workspace_.take(DType::f32, {store.rows(chunk), store.channels()});
  PARE_TRY(const Tensor state, store.read(chunk, scratch));
  return moved(state, Device::cpu());
}

Status BlockPipeline::restore_state_chunk(int64_t index, std::span<const std::byte> bytes) {
  const int64_t chunks = int64_t(chunk_rows_.size());
  ActivationStore& store = index < chunks ? stream_->hidden : original_->hidden;
  const int64_t chunk = index % chunks;
  const Workspace::Scope scope(workspace_);
  const Tensor scratch = workspace_.take(DType::f32, {store.rows(chunk), store.channels()});
  Tensor hidden = store.place(chunk, scratch);
  PARE_ASSERT(bytes.size() == hidden.size_bytes(), "[block_pipeline] state of {} bytes, not {}", bytes.size(),
              hidden.size_bytes());
  // Read only.
  const Tensor state = Tensor::wrap(const_cast<std::byte*>(bytes.data()), DType::f32, hidden.shape());
  PARE_CHECK(copy_into(state, hidden));
  return store.write(chunk, hidden);
}

uint64_t BlockPipeline::spilled_bytes() const {
  uint64_t bytes = 0;
  for (const Stream* stream : {stream_.get(), original_.get()}) {
    if (stream == nullptr) continue;
    bytes += stream->hidden.spilled_bytes() + stream->mixed->spilled_bytes() + stream->inner->spilled_bytes();
  }
  return bytes;
}

}  // namespace pare
