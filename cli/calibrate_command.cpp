#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <optional>

#include "calibrate/block_pipeline.h"
#include "cli/backends.h"
#include "cli/calibration_data.h"
#include "cli/commands.h"
#include "cli/model_argument.h"
#include "cli/process_group.h"
#include "cli/statistics_file.h"
#include "engine/core/memory.h"
#include "engine/core/progress.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

constexpr std::array kSites = {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out};

struct Options {
  std::string model, output, statistics = "absmean,absmax,square,range", part, limits, now;
  std::vector<std::string> merge;
  CalibrationDataOptions data;
  bool force = false, dry_run = false;
};

Error option_error(const char* rule, const std::string& option, const std::string& what,
                   const std::string& got = {}, const std::string& limit = {}) {
  return Error{Exit::usage, rule, option, {}, what, got.empty() ? got : quote(got), limit, "expected"};
}

Result<StatisticSet> parse_statistics(const std::string& list) {
  StatisticSet set;
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    PARE_TRY(const Statistic statistic, parse_statistic(std::string_view(list).substr(at, end - at)));
    set.add(statistic);
    at = end + 1;
  }
  // A histogram without the ends it was made from could not be merged.
  if (set.has(Statistic::histogram)) set.add(Statistic::range);
  return set;
}

// "2/4": the third of four parts, counted from 0.
Result<std::pair<int64_t, int64_t>> parse_part(const std::string& text) {
  const size_t slash = text.find('/');
  if (slash != std::string::npos) {
    const auto part = parse_int(std::string_view(text).substr(0, slash)),
               parts = parse_int(std::string_view(text).substr(slash + 1));
    if (part && parts && *parts > 0 && *part >= 0 && *part < *parts) return std::pair(*part, *parts);
  }
  return option_error("CL06", "--part", "not a part", text, "K/N with 0 <= K < N");
}

Status check_options(const Options& options) {
  if (!options.merge.empty()) {
    if (!options.model.empty() || !options.data.path.empty() || !options.part.empty()) {
      return option_error("CL13", "--merge",
                          "merging takes files of statistics only; no MODEL, --data or --part");
    }
    return {};
  }
  if (options.model.empty()) return option_error("CL07", "MODEL", "missing");
  if (options.data.path.empty()) return option_error("CL07", "--data", "missing; statistics need a text");
  return {};
}

int64_t channels_of(const ModelConfig& config, int block, Site site) {
  const BlockConfig& shape = config.blocks[size_t(block)];
  if (site == Site::attention_out) return shape.heads * shape.head_dim;
  if (site == Site::mlp_out) return shape.intermediate_size;
  return config.hidden_size;
}

StatisticsHeader header_for(const ModelConfig& config, StatisticSet collected) {
  StatisticsHeader header;
  header.collected = collected;
  for (int block = 0; block < int(config.block_count()); ++block) {
    for (const Site site : kSites) header.sites.push_back({block, site, channels_of(config, block, site)});
  }
  return header;
}

Json to_json(const Options& options, const StatisticsHeader& header, const CalibrationData* data,
             double seconds) {
  Json json = Json::object();
  json["schema_version"] = 1;
  json["command"] = "calibrate";
  json["output"] = options.output;
  json["dry_run"] = options.dry_run;
  Json statistics = Json::array();
  for (const Statistic statistic : kAllStatistics) {
    if (header.collected.has(statistic)) statistics.push_back(Json(statistic_name(statistic)));
  }
  json["statistics"] = std::move(statistics);
  json["sites"] = Json(int64_t(header.sites.size()));
  json["model_hash"] = header.origin.model_hash;
  json["token_hash"] = header.origin.token_hash;
  json["samples"] = Json(header.origin.samples);
  json["context"] = Json(header.origin.context);
  json["first_window"] = Json(header.windows.begin);
  json["end_window"] = Json(header.windows.end);
  json["complete"] = Json(header.is_complete());
  if (data != nullptr) json["data"] = data->to_json();
  json["seconds"] = seconds;
  add_peak_memory(json);
  return json;
}

void report(const Options& options, const CommonOptions& common, const StatisticsHeader& header,
            const CalibrationData* data, double seconds) {
  if (common.json) {
    print_json(to_json(options, header, data, seconds));
    return;
  }
  print_line((options.model.empty() ? format_count(options.merge.size()) + " parts" : options.model) +
             " -> " + options.output);
  print_line("  " + format_count(header.sites.size()) + " sites, windows " +
             format_count(uint64_t(header.windows.begin)) + " to " +
             format_count(uint64_t(header.windows.end)) + " of " +
             format_count(uint64_t(header.origin.samples)) + ", " +
             format_count(uint64_t(header.origin.context)) + " tokens each" +
             (header.is_complete() ? "" : " (a part: put all together with --merge)"));
  if (data != nullptr) {
    print_line("  data: " + data->kind + ", " + format_count(uint64_t(data->documents)) + " documents, " +
               format_count(uint64_t(data->stream_tokens)) + " tokens, stream " +
               header.origin.token_hash.substr(0, 16) +
               (data->has_bos ? ", BOS in front of every window" : ""));
  }
  print_line(options.dry_run ? "  nothing was written (--dry-run)"
                             : "pare: done: " + format_count(header.sites.size()) + " sites in " +
                                   format_duration(seconds) + ", peak memory " + peak_memory_text());
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
}

// Where histograms end: as given by --limits, else as this group of processes agrees.
Result<std::function<Result<double>(int, Site, double)>> histogram_limits(const Options& options,
                                                                          const StatisticsHeader& header,
                                                                          ProcessGroup& group) {
  using Limits = std::function<Result<double>(int, Site, double)>;
  if (options.limits.empty()) {
    return Limits([&group](int, Site, double largest) -> Result<double> { return group.largest(largest); });
  }
  PARE_TRY(StatisticsFile file,
           open_statistics_of(options.limits, header.origin.model_hash, header.origin.token_hash));
  if (!file.header().collected.has(Statistic::range)) {
    return option_error("CL13", "--limits", "these statistics have no range", options.limits);
  }
  auto shared = std::make_shared<const StatisticsFile>(std::move(file));
  return Limits([shared](int block, Site site, double) -> Result<double> {
    for (const SiteEntry& entry : shared->header().sites) {
      if (entry.block != block || entry.site != site) continue;
      PARE_TRY(const SiteStatistics statistics, shared->load(entry));
      return std::max(-double(statistics.low), double(statistics.high));
    }
    return Error{Exit::malformed,
                 "IM04",
                 shared->path(),
                 "sites",
                 "site is missing",
                 std::to_string(block) + " " + std::string(site_name(site)),
                 {},
                 "expected"};
  });
}

Result<Exit> run_merge(const Options& options, const CommonOptions& common) {
  const auto start = std::chrono::steady_clock::now();
  StatisticsHeader header;
  PARE_CHECK(merge_statistics(options.merge, options.output, options.force, &header));
  report(options, common, header, nullptr,
         std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return Exit::ok;
}

// The walk over the blocks; the first of the group writes.
Status walk(const Options& options, const StatisticsHeader& header, BlockPipeline& pipeline,
            ProcessGroup& group, const WriteOptions& write) {
  std::optional<StatisticsWriter> writer;
  if (group.is_first()) {
    PARE_TRY(writer, StatisticsWriter::create(options.output, write, header));
  }
  Progress progress("calibrate", pipeline.block_count(), "blocks");
  PARE_CHECK(pipeline.embed());
  for (int block = 0; block < pipeline.block_count(); ++block) {
    std::map<Site, SiteStatistics> found;
    PARE_CHECK(pipeline.observe_block(
        block, [&](Site) { return header.collected; }, found));
    for (const Site site : kSites) {
      SiteStatistics& statistics = found[site];
      PARE_CHECK(group.merge_to_first({block, site, statistics.channels}, header.collected, statistics));
      if (writer) PARE_CHECK(writer->write(statistics));
    }
    progress.advance();
  }
  return writer ? writer->finish() : Status();
}

Result<Exit> run_calibrate(const Options& given, const CommonOptions& common) {
  Options options = given;
  PARE_CHECK(check_options(options));
  PARE_CHECK(start_engine(common));
  if (!options.merge.empty()) return run_merge(options, common);
  const auto start = std::chrono::steady_clock::now();
  PARE_TRY(const WalkDevice device, walk_device(common));
  PARE_TRY(const StatisticSet collected, parse_statistics(options.statistics));
  PARE_TRY(const auto group, ProcessGroup::join());
  std::pair<int64_t, int64_t> part = {group->rank(), group->size()};
  if (!options.part.empty()) {
    if (group->size() > 1) return option_error("CL13", "--part", "parts are the ranks of mpirun");
    PARE_TRY(part, parse_part(options.part));
    if (collected.has(Statistic::histogram) && options.limits.empty() && part.second > 1) {
      return option_error(
          "CL13", "--part",
          "histograms of parts need common ends: collect range first, merge it, and give it with "
          "--limits");
    }
  }
  PARE_CHECK(check_output(options.output, {.force = options.force}));
  PARE_TRY(const uint64_t limit, memory_limit(common));
  PARE_TRY(const auto source, open_source(options.model, common));
  PARE_TRY(const ModelDescription model, describe_model(*source));
  options.data.seed = common.seed;
  if (!options.now.empty()) options.data.now = options.now;
  PARE_TRY(const CalibrationData data, load_calibration_data(options.data, *source, model.config));
  if (part.second > data.windows.samples) {
    return option_error("CL13", group->size() > 1 ? "mpirun" : "--part", "more parts than windows",
                        std::to_string(part.second), std::to_string(data.windows.samples));
  }

  StatisticsHeader header = header_for(model.config, collected);
  PARE_TRY(header.origin.model_hash, model_hash(*source));
  header.origin.token_hash = data.windows.token_hash;
  header.origin.text_hash = data.windows.text_hash;
  header.origin.seed = common.seed;
  header.origin.samples = data.windows.samples;
  header.origin.context = data.windows.context;
  const WindowRange own = part_range(data.windows.samples, part.first, part.second);
  header.windows = group->size() > 1 ? WindowRange{0, data.windows.samples} : own;

  PARE_TRY(const auto planned, Model::open(source, Device::cpu()));
  PARE_CHECK(check_memory(common,
                          resident_bytes() + pipeline_floor_bytes(*planned, data.windows.context, false),
                          "lower --context, or raise --max-memory"));
  if (options.dry_run) {
    if (group->is_first()) report(options, common, header, &data, 0.0);
    group->finish();
    return Exit::ok;
  }
  PipelineOptions pipeline_options;
  pipeline_options.memory_limit = limit;
  pipeline_options.device = device.device;
  pipeline_options.device_limit = device.limit;
  pipeline_options.spill_folder = folder_of(options.output);
  PARE_TRY(pipeline_options.histogram_limit, histogram_limits(options, header, *group));
  PARE_TRY(const auto pipeline,
           BlockPipeline::create(std::make_shared<EditedSource>(source), nullptr,
                                 windows_of(data.windows, own), std::move(pipeline_options)));
  WriteOptions write{.force = options.force, .inputs = source->file_identities()};
  PARE_CHECK(walk(options, header, *pipeline, *group, write));
  PARE_CHECK(source->check_unchanged());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (group->is_first()) report(options, common, header, &data, seconds);
  group->finish();
  return Exit::ok;
}

}  // namespace

void add_calibrate(CLI::App& app, Commands& commands) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("calibrate", "statistics of activations over a data set");
  verb->add_option("MODEL", options->model, "what to look at");
  verb->add_option("--data", options->data.path,
                   "text, JSONL with `text` or `messages`, or safetensors with input_ids")
      ->type_name("FILE");
  verb->add_option("-o,--output", options->output, "where to write: NAME.safetensors")
      ->required()
      ->type_name("OUT");
  verb->add_option("--statistics", options->statistics,
                   "which, with commas: second_moment, absmean, absmax, square, range, histogram, mean, "
                   "sample_absmean")
      ->capture_default_str()
      ->type_name("LIST");
  verb->add_option("--samples", options->data.samples, "windows of tokens")
      ->check(CLI::Range(int64_t(1), int64_t(1'000'000)))
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("--context", options->data.context,
                   "tokens per window (default: 2048, or what the model takes)")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 24))
      ->type_name("N");
  verb->add_option("--seed", commands.common().seed, "which windows are drawn")
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("--bos", options->data.bos,
                   "BOS in front of every window: auto (as the tokenizer does), always, never")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str()
      ->type_name("RULE");
  verb->add_option("--chat-template", options->data.chat_template, "which template renders messages")
      ->capture_default_str()
      ->type_name("NAME");
  verb->add_option("--now", options->now, "date for templates that ask for one: YYYY-MM-DD")
      ->type_name("DATE");
  verb->add_flag("--parse-special", options->data.parse_special,
                 "messages may hold special tokens, which then count as such");
  verb->add_option("--part", options->part, "only windows of part K of N, K from 0; for several processes")
      ->type_name("K/N");
  verb->add_option("--limits", options->limits, "statistics with range: where histograms of parts end")
      ->type_name("FILE");
  verb->add_option("--merge", options->merge, "put parts together: files of statistics")->type_name("FILE");
  verb->add_flag("--dry-run", options->dry_run, "check everything, say what would be done, and stop");
  verb->add_flag("--force", options->force, "replace an existing output");
  add_common(verb, commands, true);
  verb->footer(
      "Examples:\n"
      "  pare calibrate model/ --data text.txt --samples 64 -o stats.safetensors\n"
      "  pare calibrate --merge part0.safetensors part1.safetensors -o stats.safetensors");
  commands.on(verb, [options, &commands] { return run_calibrate(*options, commands.common()); });
}

}  // namespace pare::cli
