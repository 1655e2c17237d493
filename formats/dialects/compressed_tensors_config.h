// formats/dialects/compressed_tensors_config.h: the "quantization_config" of compressed-tensors; internal to
// formats.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/tensor/activation_quant.h"
#include "formats/dialects/module_names.h"

namespace pare {

// How one kind of tensor is quantized (their "quantization arguments").
struct QuantArgs {
  enum class Strategy { tensor, channel, group, block, token, other };
  int bits = 8;
  bool is_float = false;
  bool symmetric = true;
  Strategy strategy = Strategy::tensor;
  int64_t group_size = 0;                     // group only
  int64_t block_rows = 0, block_columns = 0;  // block only
  bool is_dynamic = false;
  bool is_act_order = false;  // columns belong to groups by weight_g_idx
};

enum class CompressedForm { packed, plain };  // weight_packed of i32 words, or weight of i8 or f8

struct ModuleGroup {
  std::string name;
  std::vector<ModuleEntry> targets;
  std::optional<QuantArgs> weights;
  std::optional<ActivationQuant> activation;  // without the values of a static one
  CompressedForm form = CompressedForm::packed;
};

struct CompressedTensorsConfig {
  std::vector<ModuleGroup> groups;
  std::vector<ModuleEntry> ignore;
  bool has_cache_scheme = false;    // with weights_only: the cache of keys and values has scales
  std::optional<bool> packs_dense;  // by the version that wrote it; see words.h

  // The group whose targets name the matrix most exactly; nullptr when none does or it is to be ignored.
  Result<const ModuleGroup*> group_of(const ModelMatrix& matrix) const;
};

// Errors: CF05, QC05 (exit 4: formats, types, strategies and keys that pare does not read, and activations
// that it does not execute unless input.weights_only), QC07.
Result<CompressedTensorsConfig> parse_compressed_tensors(const DialectInput& input);

}  // namespace pare
