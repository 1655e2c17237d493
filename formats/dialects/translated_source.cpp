#include "formats/dialects/translated_source.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "engine/core/file.h"
#include "engine/core/limits.h"
#include "engine/core/log.h"
#include "engine/core/text.h"
#include "formats/config_edit.h"
#include "formats/dialects/dialect.h"
#include "formats/dialects/fields.h"
#include "formats/dialects/manifest_records.h"
#include "formats/dialects/module_names.h"
#include "formats/fault.h"

namespace pare {
namespace {

constexpr const char* kKey = "quantization_config";

// Where a checkpoint says how it was quantized.
struct Declaration {
  Json settings;
  std::string path, key;  // of the file, and of the settings in it ("" when they are all of it)
  std::string method;
};

std::string join(const std::string& folder, const std::string& name) {
  return folder.ends_with('/') ? folder + name : folder + "/" + name;
}

// Checkpoints of the first tools have the settings in a file of their own.
Result<std::optional<Declaration>> find_in_own_file(const WeightSource& stored, const std::string& folder,
                                                    const OpenOptions& options) {
  const auto is_packed = [](const StoredTensor& tensor) { return tensor.name.ends_with(".qweight"); };
  if (!std::any_of(stored.tensors().begin(), stored.tensors().end(), is_packed))
    return std::optional<Declaration>();
  for (const auto& [name, method] :
       {std::pair{"quantize_config.json", "gptq"}, {"quant_config.json", "awq"}}) {
    if (!path_exists(join(folder, name))) continue;
    PARE_TRY(const InputFile file, InputFile::open_below(folder, name, options.follow_symlinks));
    PARE_TRY(const std::string text, file.read_all(limits::kConfigBytes));
    PARE_TRY(Json settings, parse_json(text, file.path(), {.max_bytes = limits::kConfigBytes}, "CF01"));
    return std::optional(Declaration{std::move(settings), file.path(), "", method});
  }
  return std::optional<Declaration>();
}

Result<std::optional<Declaration>> find_declaration(const WeightSource& stored, const std::string& folder,
                                                    const OpenOptions& options) {
  const Json* settings = stored.config().find(kKey);
  if (settings == nullptr || settings->is_null()) return find_in_own_file(stored, folder, options);
  const std::string path = join(folder, "config.json");
  Fields config(stored.config(), path, "");
  if (config.object(kKey) == nullptr) return config.status().error();
  Fields fields(*settings, path, kKey);
  const auto method = fields.text("quant_method");
  PARE_CHECK(fields.status());
  return std::optional(Declaration{*settings, path, kKey, method.value_or("")});
}

std::string known_methods() {
  std::string names;
  for (const Dialect& dialect : dialects()) names += (names.empty() ? "" : ", ") + std::string(dialect.name);
  return names;
}

class TranslatedSource : public WeightSource {
 public:
  TranslatedSource(std::shared_ptr<const WeightSource> stored, std::string format, Translation translation)
      : stored_(std::move(stored)), format_(std::move(format)), translation_(std::move(translation)) {
    config_ = stored_->config();
    config_.erase(kKey);
    config_text_ = without_key(stored_->config_text(), kKey);
  }

  // Lists every tensor once, a quantized matrix in the place of its first part.
  Status adopt() {
    std::unordered_map<std::string_view, size_t> owner;
    for (size_t i = 0; i < translation_.tensors.size(); ++i) {
      for (const std::string& part : translation_.tensors[i].parts) owner.emplace(part, i);
    }
    for (const std::string& name : translation_.dropped) owner.emplace(name, kDropped);
    std::vector<bool> is_listed(translation_.tensors.size(), false);
    for (const StoredTensor& tensor : stored_->tensors()) {
      const auto found = owner.find(tensor.name);
      if (found == owner.end()) {
        tensors_.push_back(tensor);
        matrices_.push_back(nullptr);
      } else if (found->second != kDropped && !is_listed[found->second]) {
        is_listed[found->second] = true;
        tensors_.push_back(translation_.tensors[found->second].tensor);
        matrices_.push_back(&translation_.tensors[found->second]);
      }
    }
    by_name_.resize(tensors_.size());
    std::iota(by_name_.begin(), by_name_.end(), size_t{0});
    std::sort(by_name_.begin(), by_name_.end(),
              [&](size_t a, size_t b) { return tensors_[a].name < tensors_[b].name; });
    for (size_t i = 1; i < by_name_.size(); ++i) {
      if (tensors_[by_name_[i - 1]].name != tensors_[by_name_[i]].name) continue;
      return malformed("QC06", stored_->path(), quote(tensors_[by_name_[i]].name),
                       "matrix is stored both quantized and dense");
    }
    if (stored_->manifest() != nullptr) manifest_ = records_of_matrices(*stored_->manifest(), translation_);
    return {};
  }

  const std::string& path() const override { return stored_->path(); }
  std::string_view format_name() const override { return format_; }
  const Json& config() const override { return config_; }
  const std::string& config_text() const override { return config_text_; }
  const std::vector<Asset>& assets() const override { return stored_->assets(); }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const Manifest* manifest() const override { return manifest_ ? &*manifest_ : nullptr; }
  const StoredTensor* find(std::string_view name) const override {
    const auto index = index_of(name);
    return index ? &tensors_[*index] : nullptr;
  }

  Result<WeightData> load(std::string_view name) const override {
    const auto index = index_of(name);
    if (!index) return malformed("IX08", stored_->path(), quote(name), "model has no such tensor");
    const TranslatedTensor* matrix = matrices_[*index];
    if (matrix == nullptr) return stored_->load(name);
    PARE_TRY(QuantizedTensor tensor, matrix->load(*stored_));
    return WeightData{.form = std::make_shared<const QuantizedTensor>(std::move(tensor)),
                      .transposed = matrix->tensor.transposed};
  }

  std::vector<HostRange> host_ranges(std::string_view name) const override {
    const auto index = index_of(name);
    if (!index) return {};
    if (matrices_[*index] == nullptr) return stored_->host_ranges(name);
    std::vector<HostRange> all;
    for (const std::string& part : matrices_[*index]->parts) {
      for (HostRange& range : stored_->host_ranges(part)) {
        range.is_uploaded = false;  // codes come in another order
        all.push_back(std::move(range));
      }
    }
    return all;
  }

  void release(std::string_view name) const override {
    const auto index = index_of(name);
    if (!index) return;
    if (matrices_[*index] == nullptr) return stored_->release(name);
    for (const std::string& part : matrices_[*index]->parts) stored_->release(part);
  }

  Status check_unchanged() const override { return stored_->check_unchanged(); }
  std::vector<std::pair<uint64_t, uint64_t>> file_identities() const override {
    return stored_->file_identities();
  }
  Result<Json> hash_inputs() const override { return stored_->hash_inputs(); }

 private:
  static constexpr size_t kDropped = SIZE_MAX;

  std::optional<size_t> index_of(std::string_view name) const {
    const auto found = std::lower_bound(
        by_name_.begin(), by_name_.end(), name,
        [&](size_t index, std::string_view wanted) { return tensors_[index].name < wanted; });
    if (found == by_name_.end() || tensors_[*found].name != name) return std::nullopt;
    return *found;
  }

  std::shared_ptr<const WeightSource> stored_;
  std::string format_;
  Translation translation_;
  Json config_;
  std::string config_text_;
  std::vector<StoredTensor> tensors_;
  std::vector<const TranslatedTensor*>
      matrices_;  // of each tensor; nullptr for those that are passed through
  std::vector<size_t> by_name_;
  std::optional<Manifest> manifest_;
};

}  // namespace

Result<std::shared_ptr<const WeightSource>> translated(std::shared_ptr<const WeightSource> stored,
                                                       const std::string& folder,
                                                       const OpenOptions& options) {
  PARE_TRY(const auto declaration, find_declaration(*stored, folder, options));
  if (!declaration) return stored;
  const Dialect* dialect = find_dialect(declaration->method);
  if (dialect == nullptr) {
    const Fields fields(declaration->settings, declaration->path, declaration->key);
    return unsupported("CF12", declaration->path, fields.where("quant_method"),
                       "checkpoints quantized by this method are not supported",
                       declaration->method.empty() ? "nothing" : quote(declaration->method), known_methods());
  }
  PARE_TRY(const std::vector<ModelMatrix> matrices, model_matrices(*stored));
  PARE_TRY(Translation translation, dialect->read({.stored = *stored,
                                                   .settings = declaration->settings,
                                                   .config_path = declaration->path,
                                                   .key = declaration->key,
                                                   .matrices = matrices,
                                                   .weights_only = options.weights_only}));
  for (const std::string& note : translation.notes) log_warning(stored->path() + ": " + note);
  const auto source = std::make_shared<TranslatedSource>(std::move(stored), std::string(dialect->name),
                                                         std::move(translation));
  PARE_CHECK(source->adopt());
  return std::shared_ptr<const WeightSource>(source);
}

}  // namespace pare
