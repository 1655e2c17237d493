// bench/harness.h: verifies, warms up, interleaves and reports benchmark cases.
//
// A case says what it computes, what it must move and who the peer is. Every sample is one round: the limit,
// our code, the peer, the limit again, so all see the same machine; the ratios of a round are what counts.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/probes.h"
#include "engine/core/json.h"

namespace pare::bench {

struct Peer {
  std::string name{};
  std::string version{};
  std::function<void()> run{};                 // empty, like the next: no peer
  std::function<double(int threads)> timed{};  // where the peer has to look at the clock itself
};

// A limit of the case's own instead of a probe.
struct Limit {
  std::string name;  // "file.read"
  double work;       // bytes of one call, or operations
  std::function<void()> run;
  bool counts_operations = false;
};

struct Case {
  std::string kernel;       // what runs, "avx512 tile_gemv cpu-w4-rows16"
  double bytes = 0.0;       // that must move in one call
  double operations = 0.0;  // that must be done in one call
  double tokens = 0.0;      // of one call; the result is shown as tokens/s where there are any
  bool shows_time = false;  // the result is shown in milliseconds
  Json params = Json::object();
  Probe limit = Probe::cpu_read;
  std::optional<Limit> own_limit{};
  std::function<double()> verify{};  // error as a share of its bound; above 1 the case is aborted
  std::function<void()> run{};       // one call; walks through its copies of the data by itself
  std::function<void()> reset{};     // after each call, not timed
  Peer peer{};
};

// Cases are made when it is their turn: each may take as much memory as three last-level caches.
struct NamedCase {
  std::string name;  // "cpu_gemv/int4-g64/576x576/m1"
  std::function<Case()> make;
  bool headline = false;  // runs without --filter and --all
};

// How many copies of `bytes` do not fit the last-level cache three times over.
int64_t copies_beyond_cache(double bytes);

struct RunOptions {
  std::vector<std::string> filters{};  // only cases whose name contains one of these, or begins with ^TEXT
  std::vector<int> threads{1, 2};
  int samples = 15;
  bool all = false, list = false;
  bool headline = false;          // with filters: only the headline cases among those
  bool is_missing = false;        // only cases that `json` has no result of
  bool isolates = false;          // in a child process, replaced when a case ends it; errors are records too
  unsigned case_seconds = 0;      // of an isolated case, then it is given up; 0: no limit
  bool pins = true;               // false: threads stay where the system puts them
  std::string json{};             // records are appended to this file
  std::string commit{}, dirty{};  // of the sources, where they are known; dirty: "yes" or "no"
};

// Runs what is asked for, prints a line per case as it is done and a table at the end. Returns the exit code.
int run_benchmarks(const RunOptions& options, const std::vector<NamedCase>& cases);

}  // namespace pare::bench
