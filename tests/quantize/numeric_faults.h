// tests/quantize/numeric_faults.h: what a row of injected faults says, and how models are bent.
#pragma once

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/quantize/tiny_job.h"

namespace pare::test {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kLargest = std::numeric_limits<float>::max();

struct Fault {
  std::string name;
  const char* config = kTinyLlama;
  std::string method = "gptq", scheme = "int4-g32-sf32";
  std::function<void(MemorySource&)> bend = [](MemorySource&) {};
  std::function<void(QuantizeJob&)> adjust = [](QuantizeJob&) {};
  int exit = 0;
  std::string rule{}, where{};
  int64_t commits = 0;                                                      // before it was noticed
  std::function<void(const JobOutcome&)> check = [](const JobOutcome&) {};  // of rows with exit 0
};

inline void PrintTo(const Fault& fault, std::ostream* out) {
  *out << fault.name;
}

inline void edit(MemorySource& source, const std::string& name,
                 const std::function<void(float*, int64_t)>& change) {
  Tensor values = checked(Tensor::allocate(DType::f32, source.dense(name).shape()));
  std::copy_n(source.dense(name).data<float>(), values.numel(), values.mutable_data<float>());
  change(values.mutable_data<float>(), values.numel());
  source.add(name, values);
}

// One element set; at: 0 first, 1 middle, 2 last. Returns the place as an error names it.
inline std::string place_of(const Shape& shape, int at) {
  const int64_t index = at == 0 ? 0 : at == 1 ? shape.numel() / 2 : shape.numel() - 1;
  if (shape.rank() == 1) return fmt::format("[{}]", index);
  return fmt::format("[{},{}]", index / shape[1], index % shape[1]);
}

inline void set_one(MemorySource& source, const std::string& name, int at, float value) {
  edit(source, name, [&](float* data, int64_t count) {
    data[at == 0 ? 0 : at == 1 ? count / 2 : count - 1] = value;
  });
}

inline void fill(MemorySource& source, const std::string& name, float value) {
  edit(source, name, [&](float* data, int64_t count) { std::fill_n(data, count, value); });
}

inline std::vector<float> restored(const JobOutcome& outcome, const std::string& name) {
  const Tensor values = checked(outcome.sink.weights.at(name).quantized()->dequantize());
  return {values.data<float>(), values.data<float>() + values.numel()};
}

inline double extra(const JobOutcome& outcome, const std::string& tensor, const char* key) {
  const TensorRecord* record = outcome.record(tensor);
  const Json* value = record == nullptr ? nullptr : record->extra.find(key);
  if (value == nullptr) return -1.0;
  return value->is_bool() ? double(value->as_bool()) : value->as_double();
}

inline std::string llama(int block, const char* part) {
  return fmt::format("model.layers.{}.{}.weight", block, part);
}

// Statistics that were saved, and bent (numeric_fault_moments.cpp); data that reaches few columns.
std::function<void(QuantizeJob&)> saved(Site site, const std::function<void(SiteStatistics&)>& bend);
void add_moment_rows(std::vector<Fault>& rows);
void add_data_rows(std::vector<Fault>& rows);

}  // namespace pare::test
