// engine/core/manifest.h: what was asked, what was done, per tensor. Deterministic: no times, hosts, users or
// paths.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/core/json.h"

namespace pare {

// Name of the manifest inside a model directory. `files` there lists all other files; what it does not list
// is not ours and is never deleted (CL17).
inline constexpr const char* kManifestFileName = "pare_manifest.json";

struct TensorRecord {
  std::string name;
  std::string kind;            // "dense", "quantized", ...
  std::string scheme;          // of quantized tensors
  std::vector<int64_t> shape;  // logical, [out, in] for matrices
  std::string method_asked;    // "rtn", "copy", ...
  std::string method_applied;
  std::optional<double> relative_error;   // ||W - What||_F / ||W||_F
  std::optional<double> max_error;        // max |W - What|
  std::optional<double> bits_per_weight;  // scales and zero points included
  std::optional<double> clipped_share;    // codes at an end of the grid by clipping
  std::string fallback;         // why the applied method differs from the asked one; empty: it does not
  Json extra = Json::object();  // method-specific numbers (damping, retries, tokens seen, ...)
};

struct Manifest {
  int schema_version = 1;
  std::string program_version;
  std::string command;            // "quantize"
  Json options = Json::object();  // canonical form, defaults filled in; no paths
  Json recipe = Json::array();    // steps
  uint64_t seed = 0;
  Json inputs = Json::array();  // [{name, bytes, xxh3_128}]
  Json files = Json::array();   // [{name, bytes, xxh3_128}]: the files of a model directory; empty elsewhere
  std::string arithmetic;       // CPU profile if a step depends on it
  std::vector<Json> history;    // manifests of earlier runs this one builds on, oldest first
  std::vector<TensorRecord> tensors;  // in execution order

  int64_t fallbacks() const;
  Json to_json() const;  // keys in a fixed order, totals at the end
  static Result<Manifest> from_json(const Json& json, std::string_view path);
};

}  // namespace pare
