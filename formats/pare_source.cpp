#include "formats/pare_source.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/asset_files.h"
#include "formats/directory_source.h"
#include "formats/fault.h"
#include "formats/pare_file.h"
#include "formats/pare_forms.h"

namespace pare {
namespace {

class PareSource : public WeightSource {
 public:
  PareSource(std::string path, std::shared_ptr<const PareFile> file, bool verify)
      : path_(std::move(path)), file_(std::move(file)), verify_(verify) {}

  Status read_texts() {
    PARE_TRY(config_, parse_json(file_->directory().config_text, path_ + ": config",
                                 {.max_bytes = limits::kConfigBytes}, "CF01"));
    PARE_TRY(manifest_, Manifest::from_json(file_->directory().manifest, path_));
    for (const PareBlob& blob : file_->directory().assets) {
      PARE_TRY(std::string bytes, file_->decode(blob));
      assets_.push_back({blob.name, std::move(bytes)});
      PARE_CHECK(check_asset(assets_.back(), path_ + ": " + sanitize(blob.name)));
    }
    return {};
  }

  void list_tensors() {
    const auto& all = file_->directory().tensors;
    by_name_.resize(all.size());
    std::iota(by_name_.begin(), by_name_.end(), size_t{0});
    std::sort(by_name_.begin(), by_name_.end(),
              [&](size_t a, size_t b) { return all[a].name < all[b].name; });
    for (const PareTensor& tensor : all) {
      const PareTensor& stored = all[resolved(tensor)];
      StoredTensor listed = listed_tensor(stored);
      listed.name = tensor.name;
      if (&stored != &tensor) listed.bytes = 0;  // an alias has no bytes of its own
      tensors_.push_back(std::move(listed));
    }
    checked_ = std::vector<std::atomic<bool>>(all.size());
  }

  const std::string& path() const override { return path_; }
  std::string_view format_name() const override { return "pare"; }
  const Json& config() const override { return config_; }
  const std::string& config_text() const override { return file_->directory().config_text; }
  const std::vector<Asset>& assets() const override { return assets_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const Manifest* manifest() const override { return &manifest_; }
  const StoredTensor* find(std::string_view name) const override {
    const auto index = index_of(name);
    return index ? &tensors_[*index] : nullptr;
  }

  Result<WeightData> load(std::string_view name) const override {
    const auto index = index_of(name);
    if (!index) return malformed("PK22", path_, quote(name), "model has no such tensor");
    const size_t stored = resolved(file_->directory().tensors[*index]);
    PARE_CHECK(check_once(stored));
    return file_->load(file_->directory().tensors[stored]);
  }

  std::vector<HostRange> host_ranges(std::string_view name) const override {
    const auto index = index_of(name);
    if (!index) return {};
    const auto& all = file_->directory().tensors;
    std::vector<HostRange> ranges;
    for (const ParePart& part : all[resolved(all[*index])].parts)
      ranges.push_back({.bytes = file_->bytes(part), .keeper = file_->mapping()});
    return ranges;
  }

  void release(std::string_view name) const override {
    if (const auto index = index_of(name))
      file_->release(file_->directory().tensors[resolved(file_->directory().tensors[*index])]);
  }

  Status check_unchanged() const override { return file_->file().check_unchanged(); }
  std::vector<std::pair<uint64_t, uint64_t>> file_identities() const override {
    return {file_->file().identity()};
  }

  Result<Json> hash_inputs() const override {
    PARE_TRY(Json hashed,
             hash_file(file_->file(),
                       path_.substr(path_.rfind('/') == std::string::npos ? 0 : path_.rfind('/') + 1)));
    Json all = Json::array();
    all.push_back(std::move(hashed));
    return all;
  }

 private:
  std::optional<size_t> index_of(std::string_view name) const {
    const auto& all = file_->directory().tensors;
    const auto found =
        std::lower_bound(by_name_.begin(), by_name_.end(), name,
                         [&](size_t index, std::string_view wanted) { return all[index].name < wanted; });
    if (found == by_name_.end() || all[*found].name != name) return std::nullopt;
    return *found;
  }

  // The tensor whose parts are used: itself, or the target of an alias, which the directory check has proven
  // to be there.
  size_t resolved(const PareTensor& tensor) const {
    return *index_of(tensor.form == PareForm::alias ? tensor.target : tensor.name);
  }

  // Checksums once, if asked for; values always, for a kernel must never meet a code out of range. Another
  // thread may do the same at the same time, with the same answer.
  Status check_once(size_t index) const {
    if (checked_[index].load(std::memory_order_relaxed)) return {};
    const PareTensor& tensor = file_->directory().tensors[index];
    if (verify_) {
      for (const ParePart& part : tensor.parts)
        PARE_CHECK(file_->check_part(part, "tensor " + quote(tensor.name) + "." + sanitize(part.role)));
    }
    PARE_CHECK(file_->check_values(tensor));
    checked_[index].store(true, std::memory_order_relaxed);
    return {};
  }

  std::string path_;
  std::shared_ptr<const PareFile> file_;
  bool verify_;
  Json config_;
  Manifest manifest_;
  std::vector<Asset> assets_;
  std::vector<StoredTensor> tensors_;
  std::vector<size_t> by_name_;
  mutable std::vector<std::atomic<bool>> checked_;
};

}  // namespace

Result<std::shared_ptr<const WeightSource>> open_pare(const std::string& path, InputFile input,
                                                      bool verify_checksums) {
  PARE_TRY(auto file, PareFile::open(std::move(input)));
  const auto source = std::make_shared<PareSource>(path, std::move(file), verify_checksums);
  PARE_CHECK(source->read_texts());
  source->list_tensors();
  return std::shared_ptr<const WeightSource>(source);
}

}  // namespace pare
