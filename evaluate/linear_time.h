// evaluate/linear_time.h: how long one token takes in a linear of a given shape on this machine, for searches
// over shapes. Weights are bf16 and come from memory, as in generation, not from a cache. One thread, by its
// processor time: shapes are compared with each other, and must not be by what else the machine does.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "engine/core/result.h"
#include "engine/tensor/device.h"

namespace pare {

struct LinearTimeOptions {
  Device device = Device::cpu();
  int repetitions = 15;
  uint64_t bytes_at_least = uint64_t(96) << 20;  // read between two uses of the same weight
  std::function<double()> seconds{};             // the clock; empty: processor time of the thread
};

// Measures each shape once and remembers it.
class LinearTimer {
 public:
  explicit LinearTimer(LinearTimeOptions options) : options_(std::move(options)) {}
  // Least seconds of x [1, in] times weight [out, in]: shapes are measured one after the other, and what else
  // the machine does only adds. Exit 6 when memory is short.
  Result<double> measure(int64_t out, int64_t in);
  const std::map<std::pair<int64_t, int64_t>, double>& measured() const { return measured_; }

 private:
  LinearTimeOptions options_;
  std::map<std::pair<int64_t, int64_t>, double> measured_;  // by (out, in)
};

}  // namespace pare
