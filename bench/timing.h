// bench/timing.h: clocks, samples and their order statistics.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace pare::bench {

// Seconds. One thread: its CPU time (others may use the machine). More: the wall clock.
double now(int threads);

struct Timing {
  double minimum = 0, median = 0, p10 = 0, p90 = 0;
  size_t count = 0;
  double spread() const { return (p90 - p10) / median; }
};
Timing summarise(std::vector<double> samples);  // at least one

// Something to be timed: `calls` of it make a sample.
struct Side {
  std::function<void()> run{};
  std::function<void()> reset{};               // after each call, off the clock; may be empty
  std::function<double(int threads)> timed{};  // instead of run: does one call, tells its seconds
  int64_t calls = 1;
  std::vector<double> seconds{};  // per call, one entry a sample

  explicit operator bool() const { return run || timed; }
  double sample(int threads) const;  // seconds per call
  // Until two successive medians of three agree within 3 %, at most 2 s; one call at least. Returns the
  // median.
  double warm_up(int threads) const;
};

// Samples of all sides get about the same length, so that an interruption weighs the same on each: the
// longest single call, within [10 ms, 250 ms].
void equalise(const std::vector<std::pair<Side*, double>>& sides_and_medians);

// Puts each thread of the pool on a CPU of its own (set_thread_count undoes it). False where that failed.
bool pin_threads();
// Lets all CPUs this process started with run the calling thread again; before set_thread_count.
void unpin_this_thread();

}  // namespace pare::bench
