#include "bench/record.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "engine/backends/cpu/isa.h"
#include "engine/core/version.h"

namespace pare::bench {
namespace {

constexpr double kNoisySpread = 0.10;
constexpr double kLoaded = 0.5;

std::string utc_date() {
  const time_t seconds = ::time(nullptr);
  tm parts{};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

std::string cpu_name() {
  const std::string text = kernel_text("/proc/cpuinfo");
  const size_t line = text.find("model name");
  const size_t begin = line == std::string::npos ? line : text.find(": ", line);
  if (begin == std::string::npos) return {};
  return text.substr(begin + 2, text.find('\n', begin) - begin - 2);
}

Json machine_json(double load_before) {
  Json json = Json::object();
  json["cpu"] = cpu_name();
  json["cores"] = int64_t(::sysconf(_SC_NPROCESSORS_ONLN));
  json["ram_bytes"] = int64_t(::sysconf(_SC_PAGE_SIZE)) * int64_t(::sysconf(_SC_PHYS_PAGES));
  json["load_before"] = load_before;
  json["gpu"] = Json();
  return json;
}

Json isa_json() {
  Json host = Json::array();
  for (const cpu::Isa level : {cpu::Isa::generic, cpu::Isa::avx2, cpu::Isa::avx512})
    if (level <= cpu::host_isa()) host.push_back(cpu::isa_name(level));
  Json json = Json::object();
  json["used"] = cpu::isa_name(cpu::best_isa());
  json["host"] = std::move(host);
  return json;
}

Json timing_json(std::string_view name, std::string_view version, const std::vector<double>& samples) {
  const Timing timing = summarise(samples);
  Json json = Json::object();
  json["name"] = name;
  json["version"] = version;
  json["min"] = timing.minimum;
  json["median"] = timing.median;
  json["p10"] = timing.p10;
  json["p90"] = timing.p90;
  json["n"] = uint64_t(timing.count);
  json["unit"] = "s";
  return json;
}

double work_of(const Case& c, const Measured& measured) {
  return measured.limit_by_operations ? c.operations : c.bytes;
}

}  // namespace

double load_average() {
  double load = 0.0;
  return ::getloadavg(&load, 1) == 1 ? load : 0.0;
}

std::vector<std::string> flags_of(const Measured& measured) {
  std::vector<std::string> flags;
  if (summarise(measured.ours).spread() > kNoisySpread) flags.push_back("noisy");
  if (measured.load_before > kLoaded) flags.push_back("loaded");
  if (!measured.pinned) flags.push_back("unpinned");
  if (measured.peer_ratios.empty()) flags.push_back("no_peer");
  return flags;
}

Json record_of(const RunOptions& options, const Case& c, const Measured& measured) {
  const double rate = measured.limit_work / summarise(measured.limit).median;
  Json build = Json::object();
  build["compiler"] = "g++ " __VERSION__;
  build["cuda"] = Json();
  Json limit = Json::object();
  limit["probe"] = measured.limit_name;
  limit["value"] = rate;
  limit["unit"] = measured.limit_by_operations ? "op/s" : "B/s";
  limit["time"] = work_of(c, measured) / rate;
  Json flags = Json::array();
  for (const std::string& flag : flags_of(measured)) flags.push_back(flag);

  Json json = Json::object();
  json["schema"] = 1;
  json["commit"] = options.commit.empty() ? Json() : Json(options.commit);
  json["dirty"] = options.dirty.empty() ? Json() : Json(options.dirty == "yes");
  json["date"] = utc_date();
  json["machine"] = machine_json(measured.load_before);
  json["build"] = std::move(build);
  json["isa"] = isa_json();
  json["threads"] = measured.threads;
  json["clock"] = measured.threads == 1 ? "thread" : "wall";
  json["case"] = measured.name;
  json["params"] = c.params;
  if (c.tokens > 0.0) json["params"]["tokens"] = int64_t(c.tokens);
  json["bytes"] = c.bytes;
  json["ops"] = c.operations;
  json["ours"] = timing_json(c.kernel, kVersion, measured.ours);
  json["peer"] = measured.peer.empty() ? Json() : timing_json(c.peer.name, c.peer.version, measured.peer);
  json["limit"] = std::move(limit);
  json["ratio_peer"] = measured.peer_ratios.empty() ? Json() : Json(summarise(measured.peer_ratios).median);
  json["share_of_limit"] = summarise(measured.shares).median;
  json["verified"] = Json::object();
  json["verified"]["max_error"] = measured.error;
  json["verified"]["bound"] = 1.0;
  json["flags"] = std::move(flags);
  return json;
}

Row row_of(const Case& c, const Measured& measured) {
  const double median = summarise(measured.ours).median;
  const auto rate = [&](double work) { return fmt::format("{:.2f}", work / median * 1e-9); };
  Row row{.name = measured.name, .ours = {}, .unit = {}, .limit = {}, .peer = "-", .flags = {}};
  row.threads = measured.threads;
  if (c.shows_time) {
    row.ours = fmt::format("{:.2f}", 1e3 * median);
    row.unit = "ms";
  } else if (c.tokens > 0.0) {
    row.ours = fmt::format("{:.1f}", c.tokens / median);
    row.unit = "tokens/s";
  } else {
    row.ours = rate(work_of(c, measured));
    row.unit = measured.limit_by_operations ? "GFLOP/s" : "GB/s";
  }
  const double limit_rate = measured.limit_work / summarise(measured.limit).median * 1e-9;
  row.limit = fmt::format("{:.0f} % of {} ({:.1f} {})", 100.0 * summarise(measured.shares).median,
                          measured.limit_name, limit_rate, measured.limit_by_operations ? "GFLOP/s" : "GB/s");
  if (!measured.peer_ratios.empty())
    row.peer = fmt::format("{:.2f}x {}", summarise(measured.peer_ratios).median, c.peer.name);
  row.flags = fmt::format("{}", fmt::join(flags_of(measured), " "));
  return row;
}

std::string table_text(const std::vector<Row>& rows) {
  size_t names = 4, limits = 14, peers = 10;
  for (const Row& row : rows) {
    names = std::max(names, row.name.size());
    limits = std::max(limits, row.limit.size());
    peers = std::max(peers, row.peer.size());
  }
  const auto line = [&](std::string_view name, std::string_view threads, std::string_view ours,
                        std::string_view unit, std::string_view limit, std::string_view peer,
                        std::string_view flags) {
    return fmt::format("{:<{}}  {:>7}  {:>9} {:<8}  {:<{}}  {:<{}}  {}\n", name, names, threads, ours, unit,
                       limit, limits, peer, peers, flags);
  };
  std::string text = line("case", "threads", "ours", "unit", "share of limit", "peer ratio", "flags");
  for (const Row& row : rows)
    text += line(row.name, std::to_string(row.threads), row.ours, row.unit, row.limit, row.peer, row.flags);
  return text;
}

}  // namespace pare::bench
