#include "bench/timing.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>

#include "engine/core/parallel.h"

namespace pare::bench {
namespace {

constexpr double kShortestSample = 0.010, kLongestFill = 0.250;  // seconds

// CPUs of the process as it was started; first used before anything is pinned.
const cpu_set_t& all_cpus() {
  static const cpu_set_t cpus = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    (void)::sched_getaffinity(0, sizeof set, &set);
    return set;
  }();
  return cpus;
}

}  // namespace

double now(int threads) {
  timespec t{};
  ::clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

Timing summarise(std::vector<double> samples) {
  std::ranges::sort(samples);
  const auto at = [&](double share) {
    return samples[size_t(std::lround(share * double(samples.size() - 1)))];
  };
  return {samples.front(), at(0.5), at(0.1), at(0.9), samples.size()};
}

double Side::sample(int threads) const {
  double total = 0.0;
  if (timed) {
    for (int64_t i = 0; i < calls; ++i) total += timed(threads);
  } else if (reset) {
    for (int64_t i = 0; i < calls; ++i) {
      const double begin = now(threads);
      run();
      total += now(threads) - begin;
      reset();
    }
  } else {
    const double begin = now(threads);
    for (int64_t i = 0; i < calls; ++i) run();
    total = now(threads) - begin;
  }
  return total / double(calls);
}

double Side::warm_up(int threads) const {
  const auto start = std::chrono::steady_clock::now();
  const auto over = [&] { return std::chrono::steady_clock::now() - start > std::chrono::seconds(2); };
  double before = 0.0;
  for (;;) {
    std::vector<double> three;
    for (int i = 0; i < 3 && (i == 0 || !over()); ++i) three.push_back(sample(threads));
    const double median = summarise(three).median;
    if (std::fabs(median - before) <= 0.03 * before || over()) return median;
    before = median;
  }
}

void equalise(const std::vector<std::pair<Side*, double>>& sides_and_medians) {
  double target = kShortestSample;
  for (const auto& [side, median] : sides_and_medians) target = std::max(target, median);
  target = std::min(target, kLongestFill);
  for (const auto& [side, median] : sides_and_medians)
    side->calls = std::max<int64_t>(1, int64_t(std::ceil(target / std::max(median, 1e-9))));
}

bool pin_threads() {
  const cpu_set_t& cpus = all_cpus();
  std::vector<size_t> list;
  for (size_t cpu = 0; cpu < size_t{CPU_SETSIZE}; ++cpu)
    if (CPU_ISSET(cpu, &cpus)) list.push_back(cpu);
  const int threads = thread_count();
  if (int64_t(list.size()) < threads) return false;
  std::atomic<int> arrived{0};
  std::atomic<bool> good{true};
  // Nobody leaves before all have come, so every thread of the pool takes exactly one item.
  parallel_for(threads, [&](int64_t) {
    ++arrived;
    while (arrived < threads) sched_yield();
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(list[size_t(thread_index())], &own);
    if (::sched_setaffinity(0, sizeof own, &own) != 0) good = false;
  });
  return good;
}

void unpin_this_thread() {
  (void)::sched_setaffinity(0, sizeof(cpu_set_t), &all_cpus());
}

}  // namespace pare::bench
