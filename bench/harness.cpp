#include "bench/harness.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>

#include "engine/backends/cpu/isa.h"
#include "engine/core/file.h"
#include "engine/core/json.h"
#include "engine/core/parallel.h"
#include "engine/core/version.h"

namespace pare::bench {
namespace {

constexpr double kShortestSample = 1e-3;  // seconds

struct Options {
  std::string filter, json;
  std::vector<int> threads{1, 2};
  int samples = 15;
  bool list = false, force = false;
};

double now(int threads) {
  timespec t{};
  ::clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

struct Timing {
  double minimum = 0, median = 0, p10 = 0, p90 = 0;
  size_t count = 0;
  double spread() const { return (p90 - p10) / median; }
};

Timing summarise(std::vector<double> samples) {
  std::ranges::sort(samples);
  const auto at = [&](double share) { return samples[size_t(std::lround(share * double(samples.size() - 1)))]; };
  return {samples.front(), at(0.5), at(0.1), at(0.9), samples.size()};
}

// Something to be timed; `calls` of it make a sample.
struct Side {
  std::function<void()> run;
  int64_t calls = 1;
  std::vector<double> seconds;  // per call

  double sample(int threads) const {
    const double begin = now(threads);
    for (int64_t i = 0; i < calls; ++i) run();
    return (now(threads) - begin) / double(calls);
  }
  // Until two successive medians of three agree within 3 %, at most 2 s.
  void warm_up(int threads) {
    const auto start = std::chrono::steady_clock::now();
    double before = 0.0;
    for (;;) {
      std::vector<double> three;
      for (int i = 0; i < 3; ++i) three.push_back(sample(threads));
      const double median = summarise(three).median;
      calls = std::max<int64_t>(1, int64_t(std::ceil(kShortestSample / std::max(median, 1e-9))));
      const bool settled = std::fabs(median - before) <= 0.03 * before;
      if (settled || std::chrono::steady_clock::now() - start > std::chrono::seconds(2)) return;
      before = median;
    }
  }
};

double load_average() {
  double load = 0.0;
  return ::getloadavg(&load, 1) == 1 ? load : 0.0;
}

Json timing_json(std::string_view name, const Timing& timing, std::string_view unit) {
  Json json = Json::object();
  json["name"] = name;
  json["min"] = timing.minimum;
  json["median"] = timing.median;
  json["p10"] = timing.p10;
  json["p90"] = timing.p90;
  json["n"] = uint64_t(timing.count);
  json["unit"] = unit;
  return json;
}

std::string utc_date() {
  const time_t seconds = ::time(nullptr);
  tm parts{};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                     parts.tm_hour, parts.tm_min, parts.tm_sec);
}

Json record_head(std::string_view name, int threads) {
  Json machine = Json::object();
  machine["features"] = cpu::cpu_features();
  machine["cores"] = int64_t(::sysconf(_SC_NPROCESSORS_ONLN));
  machine["load_before"] = load_average();
  Json json = Json::object();
  json["schema"] = 1;
  json["version"] = kVersion;
  json["date"] = utc_date();
  json["machine"] = machine;
  json["isa"] = cpu::isa_name(cpu::best_isa());
  json["threads"] = threads;
  json["clock"] = threads == 1 ? "thread" : "wall";
  json["case"] = name;
  return json;
}

void say(const std::string& line) {
  const std::string text = line + "\n";
  for (size_t done = 0; done < text.size();) {
    const ssize_t wrote = ::write(STDOUT_FILENO, text.data() + done, text.size() - done);
    if (wrote <= 0) return;
    done += size_t(wrote);
  }
}

class Runner {
 public:
  explicit Runner(const Options& options) : options_(options) {}

  // A probe on its own: the rates behind all shares.
  void run_probe(Probe probe, int threads) {
    Side side{.run = [&] { probes_.run(probe); }, .calls = 1, .seconds = {}};
    side.warm_up(threads);
    for (int i = 0; i < options_.samples; ++i) side.seconds.push_back(side.sample(threads));
    const Timing timing = summarise(side.seconds);
    const std::string_view name = probe_name(probe, threads);
    say(fmt::format("{:<46} t{} {:9.2f} G/s  best {:9.2f}  spread {:3.0f} %", name, threads,
                    probes_.work(probe) / timing.median * 1e-9, probes_.work(probe) / timing.minimum * 1e-9,
                    100.0 * timing.spread()));
    Json json = record_head(name, threads);
    json["work"] = probes_.work(probe);
    json["ours"] = timing_json(name, timing, "s");
    lines_ += json.dump() + "\n";
  }

  bool run_case(const NamedCase& named, int threads) {
    const Case c = named.make();
    const double error = c.verify();
    if (!(error <= 1.0)) {
      say(fmt::format("{:<46} t{} WRONG: error {:.3g} of its bound", named.name, threads, error));
      return false;
    }
    Side ours{.run = c.run, .calls = 1, .seconds = {}};
    Side peer{.run = c.peer.run, .calls = 1, .seconds = {}};
    Side limit{.run = [&] { probes_.run(c.limit); }, .calls = 1, .seconds = {}};
    ours.warm_up(threads);
    limit.warm_up(threads);
    if (peer.run) peer.warm_up(threads);
    const double work = c.limit == Probe::cpu_fma_f32 ? c.operations : c.bytes;
    std::vector<double> shares, peer_ratios;
    for (int i = 0; i < options_.samples; ++i) {
      const double limit_before = limit.sample(threads);
      ours.seconds.push_back(ours.sample(threads));
      if (peer.run) peer.seconds.push_back(peer.sample(threads));
      const double rate = probes_.work(c.limit) / limit_before;
      limit.seconds.push_back(limit_before);
      shares.push_back(work / rate / ours.seconds.back());
      if (peer.run) peer_ratios.push_back(peer.seconds.back() / ours.seconds.back());
    }
    report(named, c, threads, error, {ours.seconds, peer.seconds, limit.seconds, shares, peer_ratios});
    return true;
  }

  const std::string& lines() const { return lines_; }

 private:
  struct Samples {
    std::vector<double> ours, peer, limit, shares, peer_ratios;
  };

  void report(const NamedCase& named, const Case& c, int threads, double error, const Samples& samples) {
    const Timing ours = summarise(samples.ours), limit = summarise(samples.limit), share = summarise(samples.shares);
    const bool by_operations = c.limit == Probe::cpu_fma_f32;
    const double work = by_operations ? c.operations : c.bytes;
    std::string text = fmt::format("{:<46} t{} {:9.2f} {}  best {:9.2f}  {:4.0f} % of {} (best {:.0f} %)", named.name,
                                   threads, work / ours.median * 1e-9, by_operations ? "GFLOP/s" : "GB/s",
                                   work / ours.minimum * 1e-9, 100.0 * share.median, probe_name(c.limit, threads),
                                   100.0 * work / ours.minimum / (probes_.work(c.limit) / limit.minimum));
    Json json = record_head(named.name, threads);
    json["bytes"] = c.bytes;
    json["ops"] = c.operations;
    json["ours"] = timing_json(c.kernel, ours, "s");
    Json bound = Json::object();
    bound["probe"] = probe_name(c.limit, threads);
    bound["value"] = probes_.work(c.limit) / limit.median;
    bound["unit"] = by_operations ? "op/s" : "B/s";
    bound["time"] = work / (probes_.work(c.limit) / limit.median);
    json["limit"] = bound;
    json["share_of_limit"] = share.median;
    if (!samples.peer_ratios.empty()) {
      const double ratio = summarise(samples.peer_ratios).median;
      text += fmt::format("  {:.2f}x {}", ratio, c.peer.name);
      json["peer"] = timing_json(c.peer.name, summarise(samples.peer), "s");
      json["ratio_peer"] = ratio;
    }
    json["verified"] = error;
    Json flags = Json::array();
    if (ours.spread() > 0.1) flags.push_back("noisy");
    if (load_average() > double(threads) + 0.5) flags.push_back("loaded");
    if (samples.peer_ratios.empty()) flags.push_back("no_peer");
    json["flags"] = flags;
    if (ours.spread() > 0.1) text += "  noisy";
    say(text);
    lines_ += json.dump() + "\n";
  }

  const Options& options_;
  Probes probes_;
  std::string lines_;
};

Status save(const Options& options, const std::string& lines) {
  PARE_TRY(FileWriter file, FileWriter::create(options.json, {.force = options.force}));
  PARE_CHECK(file.write(lines));
  return file.publish();
}

}  // namespace

int64_t copies_beyond_cache(double bytes) {
  return std::max<int64_t>(1, int64_t(std::ceil(3.0 * double(last_level_cache_bytes()) / bytes)));
}

int run_benchmarks(int argc, char** argv, const std::vector<NamedCase>& cases, const std::vector<Probe>& probes) {
  Options options;
  CLI::App app("Benchmarks: each case beside the limit of this machine and a peer, in the same rounds");
  app.add_option("--filter", options.filter, "only cases whose name contains this text");
  app.add_option("--threads", options.threads, "thread counts to run, 1,2 by default")->delimiter(',');
  app.add_option("--samples", options.samples, "rounds per case, 15 by default")->check(CLI::Range(3, 10000));
  app.add_option("--json", options.json, "write one JSON object per case and line to this file");
  app.add_flag("--force", options.force, "replace that file");
  app.add_flag("--list", options.list, "only print the names");
  CLI11_PARSE(app, argc, argv);
  bool good = true;
  Runner runner(options);
  for (const int threads : options.threads) {
    set_thread_count(threads);
    if (!options.list && options.filter.empty()) {
      for (const Probe probe : probes) runner.run_probe(probe, threads);
    }
    for (const NamedCase& named : cases) {
      if (named.name.find(options.filter) == std::string::npos) continue;
      if (options.list) {
        say(named.name);
      } else {
        good = runner.run_case(named, threads) && good;
      }
    }
  }
  if (!options.json.empty()) {
    if (const Status saved = save(options, runner.lines()); !saved) {
      say(format_error(saved.error()));
      return int(saved.error().exit);
    }
  }
  return good ? 0 : 1;
}

}  // namespace pare::bench
