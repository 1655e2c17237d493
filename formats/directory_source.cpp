#include "formats/directory_source.h"

#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <numeric>

#include "engine/core/hash.h"
#include "engine/core/limits.h"
#include "engine/core/log.h"
#include "engine/core/text.h"
#include "formats/asset_files.h"
#include "formats/checkpoint_files.h"
#include "formats/dialects/translated_source.h"
#include "formats/fault.h"
#include "formats/stored_manifest.h"

namespace pare {
namespace {

constexpr const char* kConfig = "config.json";

class DirectorySource : public WeightSource {
 public:
  DirectorySource(std::string shown_path, std::string folder, OpenOptions options)
      : shown_path_(std::move(shown_path)), folder_(std::move(folder)), options_(std::move(options)) {}

  // Small files first: they say soonest what is wrong.
  Status read_texts() {
    PARE_TRY(const auto names, list_directory(folder_));
    if (!std::binary_search(names.begin(), names.end(), kConfig)) {
      return malformed("IX17", folder_, kConfig, "directory has no config.json");
    }
    PARE_TRY(const InputFile file, InputFile::open_below(folder_, kConfig, options_.follow_symlinks));
    auto text = file.read_all(limits::kConfigBytes);
    if (!text) return config_error(std::move(text).error());
    config_text_ = *std::move(text);
    auto parsed = parse_json(config_text_, file.path(), {.max_bytes = limits::kConfigBytes}, "CF01");
    if (!parsed) return config_error(std::move(parsed).error());
    config_ = *std::move(parsed);
    config_identity_ = file.identity();
    PARE_TRY(assets_, read_assets(folder_, options_.follow_symlinks));
    if (!std::binary_search(names.begin(), names.end(), kManifestFileName)) return {};
    PARE_TRY(const InputFile manifest,
             InputFile::open_below(folder_, kManifestFileName, options_.follow_symlinks));
    PARE_TRY(const std::string manifest_text, manifest.read_all(limits::kHeaderBytes));
    PARE_TRY(manifest_, StoredManifest::parse(manifest_text, manifest.path()));
    return {};
  }

  Status adopt(CheckpointFiles checkpoint) {
    checkpoint_ = std::move(checkpoint);
    for (size_t f = 0; f < checkpoint_.files.size(); ++f) {
      for (const SafetensorsEntry& entry : checkpoint_.files[f].file->entries()) {
        if (checkpoint_.index && checkpoint_.index->shard_of(entry.name) == nullptr) continue;
        tensors_.push_back({entry.name, entry.dtype, entry.shape, std::nullopt, false, entry.bytes()});
        places_.push_back({f, &entry});
      }
    }
    by_name_.resize(tensors_.size());
    std::iota(by_name_.begin(), by_name_.end(), size_t{0});
    std::sort(by_name_.begin(), by_name_.end(),
              [&](size_t a, size_t b) { return tensors_[a].name < tensors_[b].name; });
    verified_ = std::vector<std::atomic<bool>>(tensors_.size());
    return {};
  }

  // The folder itself is an input: an output must neither replace it nor lie inside it (CL01).
  Status claim_folder() {
    struct stat status {};
    if (::stat(folder_.c_str(), &status) != 0)
      return fault(Exit::io, "IX16", folder_, "", std::strerror(errno), "", "", "");
    folder_identity_.emplace(status.st_dev, status.st_ino);
    return {};
  }

  // Last, when everything has passed.
  void warn() const {
    for (const std::string& warning : checkpoint_.warnings) log_warning(warning);
    if (!manifest_) return;
    for (const Asset& asset : assets_) warn_if_edited(asset.name, asset.bytes);
    warn_if_edited(kConfig, config_text_);
  }

  const std::string& path() const override { return shown_path_; }
  std::string_view format_name() const override { return "safetensors"; }
  const Json& config() const override { return config_; }
  const std::string& config_text() const override { return config_text_; }
  const std::vector<Asset>& assets() const override { return assets_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const Manifest* manifest() const override { return manifest_ ? &manifest_->manifest() : nullptr; }
  const StoredTensor* find(std::string_view name) const override {
    const auto index = index_of(name);
    return index ? &tensors_[*index] : nullptr;
  }

  Result<WeightData> load(std::string_view name) const override {
    const auto index = index_of(name);
    if (!index) return malformed("IX08", shown_path_, quote(name), "model has no such tensor");
    const auto& [file, entry] = places_[*index];
    PARE_CHECK(verify(*index, *checkpoint_.files[file].file, *entry));
    PARE_TRY(Tensor tensor, checkpoint_.files[file].file->load(*entry));
    return WeightData{std::move(tensor), false};
  }

  std::vector<HostRange> host_ranges(std::string_view name) const override {
    const auto index = index_of(name);
    if (!index) return {};
    const auto& [file, entry] = places_[*index];
    return {{.bytes = checkpoint_.files[file].file->bytes(*entry),
             .keeper = checkpoint_.files[file].file->mapping()}};
  }

  void release(std::string_view name) const override {
    const auto index = index_of(name);
    if (index) checkpoint_.files[places_[*index].first].file->release(*places_[*index].second);
  }

  Status check_unchanged() const override {
    for (const CheckpointFile& file : checkpoint_.files) PARE_CHECK(file.file->file().check_unchanged());
    return {};
  }

  std::vector<std::pair<uint64_t, uint64_t>> file_identities() const override {
    std::vector<std::pair<uint64_t, uint64_t>> identities{config_identity_};
    if (folder_identity_) identities.push_back(*folder_identity_);
    for (const CheckpointFile& file : checkpoint_.files) identities.push_back(file.file->file().identity());
    return identities;
  }

  Result<Json> hash_inputs() const override {
    Json all = Json::array();
    const auto add_text = [&](const std::string& name, const std::string& text) {
      all.push_back(file_sum_json({name, text.size(), xxh3_128(std::string_view(text))}));
    };
    add_text(kConfig, config_text_);
    for (const Asset& asset : assets_) add_text(asset.name, asset.bytes);
    for (const CheckpointFile& file : checkpoint_.files) {
      PARE_TRY(Json hashed, hash_file(file.file->file(), file.name));
      all.push_back(std::move(hashed));
    }
    return all;
  }

 private:
  static Error config_error(Error error) {
    if (error.what == "duplicate key") error.rule = "CF03";
    if (error.exit == Exit::resource || error.what.find("depth") != std::string::npos) error.rule = "CF02";
    return error;
  }

  std::optional<size_t> index_of(std::string_view name) const {
    const auto found = std::lower_bound(
        by_name_.begin(), by_name_.end(), name,
        [&](size_t index, std::string_view wanted) { return tensors_[index].name < wanted; });
    if (found == by_name_.end() || tensors_[*found].name != name) return std::nullopt;
    return *found;
  }

  // Against our own manifest, once per tensor; another thread may do it too, with the same answer.
  Status verify(size_t index, const SafetensorsFile& file, const SafetensorsEntry& entry) const {
    if (!options_.verify_checksums || !manifest_ || verified_[index].load(std::memory_order_relaxed))
      return {};
    const auto expected = manifest_->tensor_sum(entry.name);
    if (expected) {
      const Hash128 found = xxh3_128(file.bytes(entry));
      if (found != *expected) {
        return malformed("IX21", file.path(), quote(entry.name), "checksum differs from pare_manifest.json",
                         found.hex(), expected->hex());
      }
    }
    verified_[index].store(true, std::memory_order_relaxed);
    return {};
  }

  void warn_if_edited(const std::string& name, const std::string& text) const {
    const FileSum* expected = manifest_->file(name);
    if (expected == nullptr || xxh3_128(std::string_view(text)) == expected->sum) return;
    log_warning(fmt::format("{}: {}: edited since it was written (got {}, expected {})", shown_path_, name,
                            xxh3_128(std::string_view(text)).hex(), expected->sum.hex()));
  }

  std::string shown_path_, folder_;
  OpenOptions options_;
  std::string config_text_;
  Json config_;
  std::pair<uint64_t, uint64_t> config_identity_{};
  std::optional<std::pair<uint64_t, uint64_t>> folder_identity_;  // empty for a file opened by its own name
  std::vector<Asset> assets_;
  std::optional<StoredManifest> manifest_;
  CheckpointFiles checkpoint_;
  std::vector<StoredTensor> tensors_;
  std::vector<std::pair<size_t, const SafetensorsEntry*>> places_;  // file and entry of each tensor
  std::vector<size_t> by_name_;
  mutable std::vector<std::atomic<bool>> verified_;
};

}  // namespace

Result<std::shared_ptr<const WeightSource>> open_directory(const std::string& shown_path,
                                                           const std::string& folder,
                                                           const OpenOptions& options) {
  const auto source = std::make_shared<DirectorySource>(shown_path, folder, options);
  PARE_CHECK(source->read_texts());
  PARE_CHECK(source->claim_folder());
  PARE_TRY(CheckpointFiles checkpoint, open_checkpoint(folder, options));
  PARE_CHECK(source->adopt(std::move(checkpoint)));
  PARE_TRY(auto result, translated(source, folder, options));
  source->warn();
  return result;
}

Result<std::shared_ptr<const WeightSource>> open_single_file(const std::string& path, InputFile input,
                                                             const OpenOptions& options) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  const auto source = std::make_shared<DirectorySource>(path, folder, options);
  PARE_TRY(auto file, open_weights(std::move(input)));
  PARE_CHECK(source->read_texts());
  CheckpointFiles checkpoint;
  checkpoint.files.push_back({slash == std::string::npos ? path : path.substr(slash + 1), std::move(file)});
  PARE_CHECK(source->adopt(std::move(checkpoint)));
  PARE_TRY(auto result, translated(source, folder, options));
  source->warn();
  return result;
}

Result<Json> hash_file(const InputFile& file, const std::string& name) {
  constexpr size_t kPieceBytes = 1 << 20;
  std::vector<std::byte> buffer(std::min<uint64_t>(kPieceBytes, file.size()));
  Xxh3Stream stream;
  for (uint64_t offset = 0; offset < file.size(); offset += buffer.size()) {
    const std::span<std::byte> piece(
        buffer.data(), static_cast<size_t>(std::min<uint64_t>(buffer.size(), file.size() - offset)));
    PARE_CHECK(file.read_at(offset, piece));
    stream.update(piece);
  }
  return file_sum_json({name, file.size(), stream.digest()});
}

}  // namespace pare
