#include "cli/job_calibration.h"

#include <algorithm>

#include "cli/calibration_data.h"

namespace pare::cli {
namespace {

struct Windows {
  CalibrationWindows calibration, report;
  Json description;
};

Result<Windows> load_windows(const JobArguments& arguments, const WeightSource& source,
                             const ModelConfig& config, uint64_t seed) {
  CalibrationDataOptions options{.path = arguments.data,
                                 .samples = arguments.samples,
                                 .context = arguments.context,
                                 .seed = seed,
                                 .bos = arguments.bos,
                                 .chat_template = arguments.chat_template,
                                 .now = std::nullopt,
                                 .parse_special = arguments.parse_special};
  PARE_TRY(CalibrationData data, load_calibration_data(options, source, config));
  Windows windows{.calibration = data.windows, .report = {}, .description = data.to_json()};
  if (arguments.no_report || !arguments.report_data.empty()) {
    windows.report = {
        .ids = {}, .samples = 0, .context = data.windows.context, .token_hash = {}, .text_hash = {}};
    return windows;
  }
  const int64_t context = data.windows.context;
  const int64_t wanted = std::max<int64_t>(1, arguments.report_tokens / context);
  options.samples = arguments.samples + wanted;
  options.context = context;
  const auto more = data.kind == "tokens" || arguments.data == "-"
                        ? Result<CalibrationData>(std::move(data))
                        : load_calibration_data(options, source, config);
  if (!more) return more.error();
  const int64_t samples = more->windows.samples, first = std::max<int64_t>(0, samples - wanted);
  windows.report.context = context;
  windows.report.samples = samples - first;
  windows.report.ids.assign(more->windows.ids.begin() + first * context, more->windows.ids.end());
  return windows;
}

}  // namespace

Result<Calibration> load_calibration(const JobArguments& arguments, const WeightSource& source,
                                     const ModelConfig& config, uint64_t seed) {
  Calibration calibration;
  if (!arguments.data.empty()) {
    PARE_TRY(Windows windows, load_windows(arguments, source, config, seed));
    calibration.windows = std::move(windows.calibration);
    calibration.report = std::move(windows.report);
    calibration.description = std::move(windows.description);
    return calibration;
  }
  if (arguments.statistics.empty()) {
    calibration.description["kind"] = "none";
    calibration.report.context = arguments.context > 0 ? arguments.context : default_context(config);
    return calibration;
  }
  PARE_TRY(const std::string hash, model_hash(source));
  PARE_TRY(StatisticsFile file, open_statistics_of(arguments.statistics, hash, {}));
  calibration.statistics = std::make_shared<StatisticsFile>(std::move(file));
  const StatisticsOrigin& origin = calibration.statistics->header().origin;
  Json& json = calibration.description = Json::object();
  json["kind"] = "statistics";
  json["hash"] = origin.token_hash;
  json["text_hash"] = origin.text_hash;
  json["seed"] = Json(origin.seed);
  json["samples"] = Json(origin.samples);
  json["context"] = Json(origin.context);
  calibration.report.context = origin.context;
  return calibration;
}

Result<SiteStatistics> saved_site(const StatisticsFile& file, int block, Site site, StatisticSet wanted) {
  for (const SiteEntry& entry : file.header().sites) {
    if (entry.block != block || entry.site != site) continue;
    for (const Statistic statistic : kAllStatistics) {
      if (!wanted.has(statistic) || file.header().collected.has(statistic)) continue;
      return Error{.exit = Exit::malformed,
                   .rule = "IM04",
                   .path = file.path(),
                   .where = "statistics",
                   .what = "lacks what the method needs; add it to --statistics of pare calibrate",
                   .got = {},
                   .limit = std::string(statistic_name(statistic)),
                   .limit_label = "need"};
    }
    PARE_TRY(SiteStatistics statistics, file.load(entry, /*writable=*/true));
    // Not to be scaled in vain, or refused because it cannot be.
    if (!wanted.has(Statistic::range)) statistics.has_range = false;
    if (!wanted.has(Statistic::histogram)) statistics.histogram.reset();
    return statistics;
  }
  return Error{.exit = Exit::malformed,
               .rule = "IM04",
               .path = file.path(),
               .where = "block " + std::to_string(block) + " " + std::string(site_name(site)),
               .what = "no statistics of this site",
               .got = {},
               .limit = {}};
}

}  // namespace pare::cli
