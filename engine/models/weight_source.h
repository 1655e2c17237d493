// engine/models/weight_source.h: named tensors with a config, from any kind of file. formats/ implements it,
// so that the engine never knows files.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/core/json.h"
#include "engine/core/manifest.h"
#include "engine/core/result.h"
#include "engine/tensor/host_range.h"
#include "engine/tensor/low_rank_tensor.h"
#include "engine/tensor/quantized_tensor.h"
#include "engine/tensor/sparse_tensor.h"
#include "engine/tensor/tensor.h"

namespace pare {

// One tensor as a source stores it, known without reading its values.
struct StoredTensor {
  std::string name;          // checkpoint name, "model.layers.0.mlp.down_proj.weight"
  DType dtype = DType::f32;  // of the elements, of low-rank tensors of the factors; with codes of the scales
  Shape shape;               // dense: as stored; other forms: logical [out, in]
  std::optional<QuantScheme> scheme;  // present for tensors with codes; of low-rank tensors that of the base
  bool transposed = false;  // not of dense tensors: the checkpoint's dense form is [in, out] (Conv1D)
  uint64_t bytes = 0;       // stored, all parts
  std::optional<ActivationQuant> activation = std::nullopt;  // of tensors with codes whose input is rounded
  std::string pattern = {};          // of sparse tensors and of a sparse base: text of the SparsityPattern
  std::optional<int64_t> kept = {};  // weights kept, with a pattern; none where only the values tell
  std::optional<int64_t> rank = {};  // present for low-rank tensors
  std::optional<DType> base_dtype =
      {};  // of a low-rank tensor with a base: its type; with codes of its scales

  bool is_low_rank() const { return rank.has_value(); }
  bool is_sparse() const { return !is_low_rank() && !pattern.empty(); }
  bool is_quantized() const { return !is_low_rank() && pattern.empty() && scheme.has_value(); }
  bool is_dense() const { return !is_low_rank() && pattern.empty() && !scheme; }
  // "dense", "quantized", "sparse" or "low_rank": the `kind` of manifests and the `form` of .pare files.
  std::string_view form_name() const;
  // What distinguishes it from others for a reader: "BF16", "int4-g64-sym", "2:4 BF16", "rank 32 BF16 +
  // int4-g64-sym".
  std::string form_text() const;
};

// A loaded tensor in whichever form.
struct WeightData {
  std::variant<Tensor, std::shared_ptr<const QuantizedTensor>, std::shared_ptr<const SparseTensor>,
               std::shared_ptr<const LowRankTensor>>
      form;
  bool transposed = false;  // as in StoredTensor

  bool is_dense() const { return form.index() == 0; }
  bool is_quantized() const { return form.index() == 1; }
  bool is_sparse() const { return form.index() == 2; }
  bool is_low_rank() const { return form.index() == 3; }
  const Tensor& dense() const { return std::get<0>(form); }
  const std::shared_ptr<const QuantizedTensor>& quantized() const { return std::get<1>(form); }
  const std::shared_ptr<const SparseTensor>& sparse() const { return std::get<2>(form); }
  const std::shared_ptr<const LowRankTensor>& low_rank() const { return std::get<3>(form); }

  // As a dense checkpoint holds it: dense ones as they are, sparse values with zeros in their type,
  // everything else in f32; matrices of Conv1D as [in, out]. Exit 6.
  Result<Tensor> to_dense_tensor() const;
  // Structure and values of a form that is not dense; finite values of a dense one. Exit 3 or 7.
  Status validate(std::string_view path, std::string_view name) const;
  // Everything but the name as a source would list it. `transposed` of dense tensors is dropped.
  StoredTensor described(std::string name) const;
};

// A file that travels with the model unchanged: tokenizer.json, generation_config.json, chat template,
// licence.
struct Asset {
  std::string name;
  std::string bytes;
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual const std::string& path() const = 0;                   // as the user gave it; for messages
  virtual std::string_view format_name() const = 0;              // "safetensors", "pare"
  virtual const Json& config() const = 0;                        // config.json, parsed
  virtual const std::string& config_text() const = 0;            // config.json, verbatim
  virtual const std::vector<Asset>& assets() const = 0;          // sorted by name; without config.json
  virtual const std::vector<StoredTensor>& tensors() const = 0;  // in file order
  virtual const StoredTensor* find(std::string_view name) const = 0;
  virtual const Manifest* manifest() const { return nullptr; }  // of files we wrote

  // The tensor as a view of the mapped file where possible (read-only storage), else a copy. Exit 3 when the
  // name is absent or a checksum does not match, 5 on read errors. Thread-safe.
  virtual Result<WeightData> load(std::string_view name) const = 0;
  // The mapped bytes that load() will give or make the tensor from, for Backend::prefetch(); nothing is read
  // for it. Empty where there are none, and for a name that is absent.
  virtual std::vector<HostRange> host_ranges(std::string_view) const { return {}; }
  // Hint: the pages of this tensor are not needed any more.
  virtual void release(std::string_view name) const = 0;
  // Exit 5 when a file changed since it was opened (IX14); called once after the last load.
  virtual Status check_unchanged() const = 0;
  // Device and inode of every file read, and of the folder of a model given as one, so that an output never
  // overwrites its input.
  virtual std::vector<std::pair<uint64_t, uint64_t>> file_identities() const = 0;
  // [{name, bytes, xxh3_128}] of every weight and config file, for the manifest; reads everything once.
  virtual Result<Json> hash_inputs() const = 0;

  const Asset* asset(std::string_view name) const {
    for (const Asset& asset : assets())
      if (asset.name == name) return &asset;
    return nullptr;
  }
};

}  // namespace pare
