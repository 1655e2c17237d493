#include "formats/gguf/source.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <numeric>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tensor/float_formats.h"
#include "formats/asset_files.h"
#include "formats/directory_source.h"
#include "formats/fault.h"
#include "formats/gguf/config_read.h"
#include "formats/gguf/names.h"
#include "formats/gguf/tensor_data.h"
#include "formats/gguf/tokenizer_read.h"

namespace pare {
namespace {

constexpr const char* kRopeFactors = "rope_freqs.weight";

// A tensor and what has to be done to it.
struct Place {
  size_t file = 0, index = 0;
  GgufLoad load;
};

class GgufSource : public WeightSource {
 public:
  GgufSource(std::string path, std::vector<std::shared_ptr<const GgufFile>> files, bool verify)
      : path_(std::move(path)),
        files_(std::move(files)),
        metadata_(files_[0]->header(), files_[0]->path()),
        verify_(verify) {}

  Status read() {
    PARE_TRY(architecture_, gguf_architecture(metadata_));
    PARE_CHECK(list_tensors());
    PARE_TRY(const GgufFacts facts, collect_facts());
    PARE_TRY(config_, gguf_config(metadata_, architecture_, facts));
    config_text_ = config_.dump(2) + "\n";
    PARE_TRY(assets_, gguf_tokenizer_assets(metadata_));
    for (const Asset& asset : assets_) PARE_CHECK(check_asset(asset, path_ + ": " + asset.name));
    const auto tokens = metadata_.count("tokenizer.ggml.tokens");
    if (tokens && *tokens != static_cast<uint64_t>(facts.vocabulary_rows))
      return metadata_.bad("tokenizer.ggml.tokens", "as many as token_embd.weight has rows",
                           std::to_string(*tokens), std::to_string(facts.vocabulary_rows));
    return {};
  }

  const std::string& path() const override { return path_; }
  std::string_view format_name() const override { return "gguf"; }
  const Json& config() const override { return config_; }
  const std::string& config_text() const override { return config_text_; }
  const std::vector<Asset>& assets() const override { return assets_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const StoredTensor* find(std::string_view name) const override {
    const auto index = index_of(name);
    return index ? &tensors_[*index] : nullptr;
  }

  Result<WeightData> load(std::string_view name) const override {
    const auto index = index_of(name);
    if (!index) return malformed("GG33", path_, quote(name), "model has no such tensor");
    const Place& place = places_[*index];
    const GgufFile& file = *files_[place.file];
    if (verify_ && !checked_[*index].load(std::memory_order_relaxed)) {
      PARE_CHECK(file.check_sum(place.index));
      checked_[*index].store(true, std::memory_order_relaxed);
    }
    const GgufTensor& tensor = file.header().tensors[place.index];
    return load_gguf_tensor(tensor, file.bytes(tensor), file.mapping(), place.load, file.path());
  }

  std::vector<HostRange> host_ranges(std::string_view name) const override {
    const auto index = index_of(name);
    if (!index) return {};
    const Place& place = places_[*index];
    const GgufFile& file = *files_[place.file];
    const GgufTensor& tensor = file.header().tensors[place.index];
    // Blocks are taken apart, and rows may change places, when a tensor is loaded.
    const bool is_view =
        gguf_type_info(tensor.type).dtype.has_value() && place.load.change == GgufChange::none;
    return {{.bytes = file.bytes(tensor), .keeper = file.mapping(), .is_uploaded = is_view}};
  }

  void release(std::string_view name) const override {
    const auto index = index_of(name);
    if (!index) return;
    const GgufFile& file = *files_[places_[*index].file];
    file.release(file.header().tensors[places_[*index].index]);
  }

  Status check_unchanged() const override {
    for (const auto& file : files_) PARE_CHECK(file->file().check_unchanged());
    return {};
  }

  std::vector<std::pair<uint64_t, uint64_t>> file_identities() const override {
    std::vector<std::pair<uint64_t, uint64_t>> identities;
    for (const auto& file : files_) identities.push_back(file->file().identity());
    return identities;
  }

  Result<Json> hash_inputs() const override {
    Json all = Json::array();
    for (const auto& file : files_) {
      const std::string& name = file->path();
      PARE_TRY(Json hashed,
               hash_file(file->file(),
                         name.substr(name.rfind('/') == std::string::npos ? 0 : name.rfind('/') + 1)));
      all.push_back(std::move(hashed));
    }
    return all;
  }

 private:
  Status list_tensors() {
    for (size_t f = 0; f < files_.size(); ++f) {
      const auto& stored = files_[f]->header().tensors;
      for (size_t i = 0; i < stored.size(); ++i) {
        if (stored[i].name == kRopeFactors) continue;  // becomes a part of the config
        PARE_CHECK(list_tensor(stored[i], f, i));
      }
    }
    by_name_.resize(tensors_.size());
    std::iota(by_name_.begin(), by_name_.end(), size_t{0});
    std::sort(by_name_.begin(), by_name_.end(),
              [&](size_t a, size_t b) { return tensors_[a].name < tensors_[b].name; });
    for (size_t i = 1; i < by_name_.size(); ++i) {
      if (tensors_[by_name_[i - 1]].name == tensors_[by_name_[i]].name)
        return malformed("GG30", path_, quote(tensors_[by_name_[i]].name), "name stands in two parts");
    }
    checked_ = std::vector<std::atomic<bool>>(tensors_.size());
    return {};
  }

  Status list_tensor(const GgufTensor& tensor, size_t file, size_t index) {
    const auto name = checkpoint_name(architecture_, tensor.name);
    StoredTensor listed;
    listed.name = name ? name->name : tensor.name;  // unknown ones are refused by the family, by this name
    listed.bytes = tensor.bytes;
    listed.shape = tensor.shape;
    listed.scheme = gguf_scheme(tensor.type);
    listed.dtype = listed.scheme ? listed.scheme->scale_dtype : *gguf_type_info(tensor.type).dtype;
    if (listed.scheme && tensor.shape.rank() != 2)
      return unsupported("GG27", path_, quote(tensor.name), "only matrices may be quantized",
                         tensor.shape.text());
    Place place{file, index, {}};
    if (name && name->change == GgufChange::permuted) PARE_CHECK(permute(tensor, place.load));
    if (name && name->change == GgufChange::transposed && tensor.shape.rank() == 2) {
      place.load.change = GgufChange::transposed;
      listed.transposed = listed.scheme.has_value();
      if (!listed.scheme) listed.shape = Shape{tensor.shape[1], tensor.shape[0]};
    }
    tensors_.push_back(std::move(listed));
    places_.push_back(place);
    return {};
  }

  Status permute(const GgufTensor& tensor, GgufLoad& load) const {
    PARE_TRY(const int64_t head_dim, gguf_head_dim(metadata_, architecture_));
    const int64_t rows = tensor.shape.rank() == 0 ? 0 : tensor.shape[0];
    if (head_dim % 2 != 0 || rows % head_dim != 0)
      return malformed("GG33", path_, quote(tensor.name), "rows do not make whole heads of an even size",
                       std::to_string(rows), fmt::format("a multiple of {}", head_dim));
    load = {GgufChange::permuted, head_dim};
    return {};
  }

  Result<GgufFacts> collect_facts() const {
    GgufFacts facts;
    for (const auto& file : files_) {
      for (const GgufTensor& tensor : file->header().tensors) {
        if (tensor.name == "token_embd.weight" && tensor.shape.rank() == 2) {
          facts.vocabulary_rows = tensor.shape[0];
          facts.dtype = tensor.type == GgufType::f16    ? "float16"
                        : tensor.type == GgufType::bf16 ? "bfloat16"
                                                        : "float32";
        }
        facts.has_head = facts.has_head || tensor.name == "output.weight";
        facts.has_attention_bias = facts.has_attention_bias || tensor.name == "blk.0.attn_q.bias";
        facts.has_mlp_bias = facts.has_mlp_bias || tensor.name == "blk.0.ffn_up.bias";
        if (tensor.name == kRopeFactors) PARE_CHECK(read_factors(*file, tensor, facts.rope_factors));
      }
    }
    if (facts.vocabulary_rows > 0) return facts;
    return malformed("GG33", path_, "\"token_embd.weight\"", "required tensor is missing, or not a matrix");
  }

  Status read_factors(const GgufFile& file, const GgufTensor& tensor, std::vector<float>& factors) const {
    if (tensor.type != GgufType::f32 || tensor.shape.rank() != 1)
      return malformed("GG33", file.path(), quote(tensor.name), "not a list of f32",
                       std::string(gguf_type_info(tensor.type).name) + " " + tensor.shape.text());
    factors.resize(static_cast<size_t>(tensor.shape[0]));  // they lie in the file
    const auto bytes = file.bytes(tensor);
    if (!bytes.empty()) std::memcpy(factors.data(), bytes.data(), bytes.size());
    return {};
  }

  std::optional<size_t> index_of(std::string_view name) const {
    const auto found = std::lower_bound(
        by_name_.begin(), by_name_.end(), name,
        [&](size_t index, std::string_view wanted) { return tensors_[index].name < wanted; });
    if (found == by_name_.end() || tensors_[*found].name != name) return std::nullopt;
    return *found;
  }

  std::string path_;
  std::vector<std::shared_ptr<const GgufFile>> files_;
  GgufMetadata metadata_;
  bool verify_;
  std::string architecture_;
  Json config_;
  std::string config_text_;
  std::vector<Asset> assets_;
  std::vector<StoredTensor> tensors_;
  std::vector<Place> places_;
  std::vector<size_t> by_name_;
  mutable std::vector<std::atomic<bool>> checked_;
};

}  // namespace

Result<std::shared_ptr<const WeightSource>> open_gguf(const std::string& path, InputFile input,
                                                      bool verify_checksums) {
  PARE_TRY(auto files, open_gguf_parts(path, std::move(input)));
  const auto source = std::make_shared<GgufSource>(path, std::move(files), verify_checksums);
  PARE_CHECK(source->read());
  return std::shared_ptr<const WeightSource>(source);
}

}  // namespace pare
