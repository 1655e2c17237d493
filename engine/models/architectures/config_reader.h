// engine/models/architectures/config_reader.h: typed access to config.json.
//
// The first error is kept and everything after it returns harmless values, so that a family reads like a
// table of keys. Errors carry line:column and the key: CF04 missing, CF05 wrong type, CF06 out of range, CF07
// indivisible, CF13 ids, CF14 rope. A missing key means the default of the class; null means "absent", which
// only the optional readers accept.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/json.h"
#include "engine/core/result.h"
#include "engine/models/model_config.h"

namespace pare {

class ConfigReader {
 public:
  // Both must outlive the reader.
  ConfigReader(const Json& config, std::string_view path) : config_(config), path_(path) {}

  int64_t required(std::string_view key, int64_t low, int64_t high);
  int64_t integer(std::string_view key, int64_t fallback, int64_t low, int64_t high);
  // Missing gives `missing`, null gives nothing.
  std::optional<int64_t> optional_integer(std::string_view key, std::optional<int64_t> missing, int64_t low,
                                          int64_t high);
  // A number in (0, high].
  double positive(std::string_view key, double fallback, double high);
  bool flag(std::string_view key, bool fallback);
  Activation activation(std::string_view key, std::string_view fallback);
  // "layer_types": whether each block slides; nothing when the key is absent or null.
  std::optional<std::vector<bool>> sliding_layers(int64_t layers);

  // bos_token_id, eos_token_id and dtype (or torch_dtype) into `config`, whose vocabulary_size is set.
  void common(ModelConfig& config);
  // Old (rope_theta, rope_scaling) and new (rope_parameters) spelling.
  RopeConfig rope(int64_t head_dim, int64_t max_positions, double default_theta);
  // CF07: `value` must be a multiple of `divisor`.
  void require_divisible(std::string_view key, int64_t value, std::string_view divisor_key, int64_t divisor);
  // Exit 4 when `key` is present and true (or not null, for other kinds).
  void refuse(std::string_view key, std::string_view what);

  void fail(Exit exit, std::string_view rule, const Json* at, std::string_view key, std::string what,
            std::string got = {}, std::string limit = {});
  bool ok() const { return !error_.has_value(); }
  Result<ModelConfig> finish(ModelConfig config) const;
  const Json& config() const { return config_; }

 private:
  const Json& config_;
  std::string_view path_;
  std::optional<Error> error_;
};

// Ids of "eos_token_id" (an integer, a list of integers, or null) appended to `ids` without repeats. CF13.
Status read_eos_ids(const Json& object, std::string_view path, int64_t vocabulary_size,
                    std::vector<int32_t>& ids);

// The text part of a multi-modal config merged over its root; the config itself when there is none. Exit 4
// when the model has other parts. CF11 and CF12 (code and foreign quantization) are refused by
// find_architecture.
Result<Json> language_config(const Json& config, std::string_view path);

// "14:24: key", or the key alone when the position is unknown.
std::string config_where(const Json* value, std::string_view key);
// A short printable form of a value for messages.
std::string config_got(const Json& value);

}  // namespace pare
