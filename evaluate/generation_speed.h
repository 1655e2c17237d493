// evaluate/generation_speed.h: how fast a model generates on this device, measured: one token at a time after
// a short prompt (decode), and a whole prompt at once (prefill). Two models are measured in turns, A B A B,
// so that whatever else the machine does hits both alike.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "engine/core/json.h"
#include "engine/core/result.h"
#include "engine/models/weight_source.h"
#include "engine/tensor/device.h"

namespace pare {

// Tokens per second over several repetitions.
struct Rate {
  double median = 0.0, lower_quartile = 0.0, upper_quartile = 0.0;
  int64_t repetitions = 0;
};
// seconds: of each repetition, any order; a repetition shorter than the clock can tell counts as one tick of
// a nanosecond. Not empty.
Rate rate_of(std::span<const double> seconds, int64_t tokens);

struct ModelSpeed {
  Rate decode, prefill;
  uint64_t loaded_bytes = 0;  // weights in their working form, Model::loaded_bytes()
};

struct SpeedComparison {
  std::string device;                            // "cpu"
  int64_t prompt_tokens = 0, decode_tokens = 0;  // of one repetition
  ModelSpeed original, compressed;
};

// Medians, compressed over original.
double speed_ratio(const Rate& original, const Rate& compressed);
// The quartiles do not overlap, and the medians differ by more than where the weights happen to lie in memory
// can do (2 %).
bool is_outside_noise(const Rate& original, const Rate& compressed);

struct SpeedOptions {
  int64_t prompt_tokens = 128;  // of the prefill; capped by the model's context
  int64_t decode_tokens = 32;   // of one repetition; capped likewise, and lowered for slow models
  int64_t repetitions = 9;
  double max_seconds = 30.0;  // when these have passed, no repetition begins, but five are made in any case
  uint64_t memory_limit = 0;  // 0: none
  Device device = Device::cpu();
  std::function<double()> seconds{};  // the clock; empty: the machine's steady one
  std::function<Status()> advance{};  // called between repetitions; its error ends the measurement
};

// Bytes that a measurement of this model holds at once; an upper estimate, from shapes. Exit 3, 4.
Result<uint64_t> speed_memory(const std::shared_ptr<const WeightSource>& source, const SpeedOptions& options);

// Both load the whole model (all models). Exit 3, 4; 6 (CL05) when memory_limit is too small, before anything
// is loaded; 4 for a context below four tokens.
Result<ModelSpeed> measure_speed(const std::shared_ptr<const WeightSource>& source,
                                 const SpeedOptions& options);
Result<SpeedComparison> compare_speed(const std::shared_ptr<const WeightSource>& original,
                                      const std::shared_ptr<const WeightSource>& compressed,
                                      const SpeedOptions& options);

// "one token 41.2 -> 57.9 tokens/s (1.41x), prompt of 128 tokens 310 -> 312 tokens/s (no speed-up on this
// device), weights in memory 270.0 MB -> 163.2 MB"
std::string speed_line(const SpeedComparison& speed);
// "41.2 -> 57.9 tokens/s (1.41x)", "... (no speed-up on this device)", "... (0.80x, slower)"
std::string rate_change_text(const Rate& original, const Rate& compressed, const char* arrow = "->");

Json to_json(const SpeedComparison& speed);
// Exit 3 (RP02 to RP04). where: in front of names in messages, "speed.".
Result<SpeedComparison> speed_from_json(const Json& json, std::string_view path, const std::string& where);

}  // namespace pare
