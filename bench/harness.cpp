#include "bench/harness.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>

#include "bench/isolated.h"
#include "bench/model_case.h"
#include "bench/record.h"
#include "bench/timing.h"
#include "engine/core/file.h"
#include "engine/core/parallel.h"

namespace pare::bench {
namespace {

constexpr uint64_t kRecordsCap = uint64_t{1} << 30;

void say(std::string_view text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t wrote = ::write(STDOUT_FILENO, text.data() + done, text.size() - done);
    if (wrote <= 0) return;
    done += size_t(wrote);
  }
}

// The file as it was with a new record behind: each is there as soon as it exists.
Status append(const std::string& path, const std::string& line) {
  std::string before;
  if (path_exists(path)) {
    PARE_TRY(before, read_text_file(path, kRecordsCap));
  }
  PARE_TRY(FileWriter file, FileWriter::create(path, {.force = true}));
  PARE_CHECK(file.write(before + line));
  return file.publish();
}

// A case without a result, for a table to say so.
Status append_error(const RunOptions& options, const std::string& name, const std::string& why) {
  if (options.json.empty()) return {};
  Json json = Json::object();
  json["case"] = name;
  json["error"] = why;
  return append(options.json, json.dump() + "\n");
}

// Names of the cases that a file of records has results of.
Result<std::set<std::string, std::less<>>> known_cases(const std::string& path) {
  std::set<std::string, std::less<>> names;
  if (path.empty() || !path_exists(path)) return names;
  PARE_TRY(const std::string text, read_text_file(path, kRecordsCap));
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const auto record =
        parse_json(std::string_view(text).substr(begin, end - begin), path, {.max_bytes = kRecordsCap});
    begin = end + 1;
    if (!record) continue;  // the last line of a program that was stopped
    const Json* name = record->find("case");
    const Json* ours = record->find("ours");
    if (name != nullptr && name->is_string() && ours != nullptr && ours->is_object())
      names.insert(name->as_string());
  }
  return names;
}

class Runner {
 public:
  explicit Runner(const RunOptions& options) : options_(options) {}

  // False when a result was wrong.
  bool run(const NamedCase& named) {
    unpin_this_thread();
    set_thread_count(*std::ranges::max_element(options_.threads));
    const Case c = named.make();
    for (const int threads : options_.threads) {
      unpin_this_thread();
      set_thread_count(threads);
      pinned_ = !options_.pins || pin_threads();
      if (!run_with(named.name, c, threads)) return false;
    }
    return true;
  }

  const std::vector<Row>& rows() const { return rows_; }

 private:
  bool run_with(const std::string& name, const Case& c, int threads) {
    const double error = c.verify();
    if (!(error <= 1.0)) {
      say(fmt::format("{} with {} threads is WRONG: error {:.3g} of its bound\n", name, threads, error));
      if (options_.isolates)
        require(append_error(options_, name, fmt::format("wrong: error {:.3g} of its bound", error)));
      return false;
    }
    Side ours{.run = c.run, .reset = c.reset};
    Side peer{.run = c.peer.run, .timed = c.peer.timed};
    Side limit{.run = c.own_limit ? c.own_limit->run : [this, &c] { probes_.run(c.limit); }};
    std::vector<std::pair<Side*, double>> sides{{&limit, limit.warm_up(threads)},
                                                {&ours, ours.warm_up(threads)}};
    if (peer) sides.push_back({&peer, peer.warm_up(threads)});
    equalise(sides);

    Measured measured{
        .name = name,
        .threads = threads,
        .pinned = pinned_,
        .load_before = load_before_,
        .error = error,
        .limit_name = c.own_limit ? c.own_limit->name : std::string(probe_name(c.limit, threads)),
        .limit_work = c.own_limit ? c.own_limit->work : probes_.work(c.limit),
        .limit_by_operations = c.own_limit ? c.own_limit->counts_operations : c.limit == Probe::cpu_fma_f32,
        .ours = {},
        .peer = {},
        .limit = {},
        .shares = {},
        .peer_ratios = {}};
    const double work = measured.limit_by_operations ? c.operations : c.bytes;
    measured.limit.push_back(limit.sample(threads));
    for (int i = 0; i < options_.samples; ++i) {
      const double before = measured.limit.back();
      measured.ours.push_back(ours.sample(threads));
      if (peer) measured.peer.push_back(peer.sample(threads));
      measured.limit.push_back(limit.sample(threads));
      const double rate = measured.limit_work / (0.5 * (before + measured.limit.back()));
      measured.shares.push_back(work / rate / measured.ours.back());
      if (peer) measured.peer_ratios.push_back(measured.peer.back() / measured.ours.back());
    }
    const std::string line = record_of(options_, c, measured).dump() + "\n";
    rows_.push_back(row_of(c, measured));
    const Row& row = rows_.back();
    say(fmt::format("  {} t{}: {} {}, {}{}\n", row.name, row.threads, row.ours, row.unit, row.limit,
                    row.peer == "-" ? "" : ", " + row.peer));
    if (!options_.json.empty()) require(append(options_.json, line));
    return true;
  }

  const RunOptions& options_;
  const double load_before_ = load_average();
  Probes probes_;
  bool pinned_ = false;
  std::vector<Row> rows_;
};

bool is_wanted(const RunOptions& options, const NamedCase& named) {
  if (options.filters.empty()) return options.all || named.headline;
  if (options.headline && !named.headline) return false;
  return std::ranges::any_of(options.filters, [&](const std::string& text) {
    return text.starts_with('^') ? named.name.starts_with(std::string_view(text).substr(1))
                                 : named.name.find(text) != std::string::npos;
  });
}

int run_all_isolated(const RunOptions& options, const std::vector<const NamedCase*>& chosen) {
  std::unique_ptr<Runner> runner;  // of the child
  std::string current;
  const auto give_up_in_child = [&](const std::string& why) { (void)append_error(options, current, why); };
  const auto run = [&](int64_t i) {
    if (runner == nullptr) {
      runner = std::make_unique<Runner>(options);
      on_give_up(give_up_in_child);
    }
    current = chosen[size_t(i)]->name;
    return runner->run(*chosen[size_t(i)]);
  };
  const auto lost = [&](int64_t i, const std::string& why) {
    const std::string& name = chosen[size_t(i)]->name;
    say(fmt::format("{}: {}\n", name, why));
    // A case that gave up has said why.
    if (why.find("exit code") == std::string::npos) (void)append_error(options, name, why);
  };
  return run_isolated({.count = int64_t(chosen.size()),
                       .case_seconds = options.case_seconds,
                       .run = run,
                       .finished = [&] { say("\n" + table_text(runner->rows())); },
                       .lost = lost});
}

}  // namespace

int64_t copies_beyond_cache(double bytes) {
  return std::max<int64_t>(1, int64_t(std::ceil(3.0 * double(last_level_cache_bytes()) / bytes)));
}

int run_benchmarks(const RunOptions& options, const std::vector<NamedCase>& cases) {
  if (options.list) {
    for (const NamedCase& named : cases)
      if (options.filters.empty() || is_wanted(options, named)) say(named.name + "\n");
    return 0;
  }
  std::set<std::string, std::less<>> known;
  if (options.is_missing) known = require(known_cases(options.json));
  std::vector<const NamedCase*> chosen;
  for (const NamedCase& named : cases)
    if (is_wanted(options, named) && !known.contains(named.name)) chosen.push_back(&named);
  if (options.isolates) return run_all_isolated(options, chosen);
  bool good = true;
  Runner runner(options);
  for (const NamedCase* named : chosen) good = runner.run(*named) && good;
  say("\n" + table_text(runner.rows()));
  return good ? 0 : 1;
}

}  // namespace pare::bench
