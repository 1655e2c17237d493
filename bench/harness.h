// bench/harness.h: verifies, warms up, interleaves and reports benchmark cases.
//
// A case says what it computes, what it must move and who the peer is. Every sample is one round of probe, case and
// peer, so all three see the same machine; the ratios of a round are what counts. With one thread the clock is the CPU
// time of the thread (others may use the machine), with more it is the wall clock.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/probes.h"

namespace pare::bench {

struct Peer {
  std::string name;
  std::function<void()> run{};  // empty: no peer
};

struct Case {
  std::string kernel;           // what runs, "avx512 tile_gemv cpu-w4-rows16"
  double bytes = 0.0;           // that must move in one call
  double operations = 0.0;      // that must be done in one call
  Probe limit = Probe::cpu_read;
  std::function<double()> verify{};  // error as a share of its bound; above 1 the case is aborted
  std::function<void()> run{};       // one call; walks through its copies of the data by itself
  Peer peer{};
};

// Cases are made when it is their turn: each may take as much memory as three last-level caches.
struct NamedCase {
  std::string name;  // "cpu_gemv/int4-g64/576x576/m1"
  std::function<Case()> make;
};

// How many copies of `bytes` do not fit the last-level cache three times over.
int64_t copies_beyond_cache(double bytes);

// Options --filter TEXT, --threads 1,2, --samples N, --json FILE, --force, --list; runs what is asked for.
// Returns the exit code.
int run_benchmarks(int argc, char** argv, const std::vector<NamedCase>& cases, const std::vector<Probe>& probes);

}  // namespace pare::bench
