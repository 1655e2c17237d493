// formats/dialects/dialect.h: other tools' ways of storing quantized linears in a safetensors folder. Writing
// goes through plan() and create_dialect_sink(), reading through open_model(). One .h/.cpp family per
// dialect, one row in registry.cpp.
//
// A dialect only says how codes, scales and zero points lie in tensors of its own names. Reading gives
// QuantizedTensor in canonical order, whose dequantize() equals what the other tool computes in exact
// arithmetic.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/models/architecture.h"
#include "engine/models/weight_source.h"

namespace pare {

// A matrix that the model has, by its module path ("model.layers.0.mlp.down_proj").
struct ModelMatrix {
  std::string module;
  std::string_view class_name;  // "Linear", "Conv1D", "Embedding"
  TensorSpec spec;
};

// What a reader gets. Everything outlives the call that it is passed to, and the source the translation.
struct DialectInput {
  const WeightSource& stored;  // the tensors as they lie in the files
  const Json& settings;        // "quantization_config"
  std::string config_path;     // file that holds it
  std::string key;             // of the settings in that file: "quantization_config", or "" for the root
  const std::vector<ModelMatrix>& matrices;
  bool weights_only = false;  // accept, and leave out, what concerns activations only
};

// One quantized matrix of a checkpoint.
struct TranslatedTensor {
  StoredTensor tensor;             // as the model sees it; name ends in ".weight"
  std::vector<std::string> parts;  // stored tensors that it is made of, and that are not listed any more
  // Reads and checks the parts (QC01 to QC04).
  std::function<Result<QuantizedTensor>(const WeightSource& stored)> load;
};

struct Translation {
  std::vector<TranslatedTensor> tensors;
  std::vector<std::string> dropped;  // stored tensors left out because of weights_only
  std::vector<std::string> notes;    // to be logged once everything has passed
};

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

// What a dialect will make of a model; decided, and refused, before anything is written.
struct DialectPlan {
  Json settings = Json::object();  // becomes "quantization_config"
  std::vector<Asset> files;        // made for this output, such as quantize_config.json
  std::vector<std::string> notes;  // choices that the user should know: "gptq v1, symmetric"
  std::function<Result<NamedTensors>(std::string_view module, const QuantizedTensor& tensor)> encode;
};

struct DialectTarget {
  const WeightSource& source;
  const ModelDescription& model;
};

struct Dialect {
  std::string_view name;  // of --format, and the value of quant_method
  Result<Translation> (*read)(const DialectInput& input) = nullptr;
  // Exit 4, naming the first tensor that the dialect cannot hold and why.
  Result<DialectPlan> (*plan)(const DialectTarget& target) = nullptr;
};

std::span<const Dialect> dialects();
const Dialect* find_dialect(std::string_view name);

}  // namespace pare
