#include "formats/pare_sink.h"

#include <fmt/core.h>
#include <zstd.h>

#include <algorithm>
#include <set>

#include "engine/core/assert.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/asset_files.h"
#include "formats/fault.h"
#include "formats/pare_directory.h"
#include "formats/pare_file.h"
#include "formats/pare_forms.h"
#include "formats/pare_frame.h"
#include "formats/self_check.h"
#include "formats/stored_manifest.h"
#include "formats/tensor_name.h"

namespace pare {
namespace {

constexpr int kZstdLevel = 10;

// Empty when the asset is better stored as it is.
std::string compressed(const std::string& bytes) {
  std::string packed(ZSTD_compressBound(bytes.size()), '\0');
  const size_t size = ZSTD_compress(packed.data(), packed.size(), bytes.data(), bytes.size(), kZstdLevel);
  const bool is_useful =
      ZSTD_isError(size) == 0 && size < bytes.size() && bytes.size() / kMaxExpansion <= size;
  packed.resize(is_useful ? size : 0);
  return packed;
}

class PareSink : public WeightSink {
 public:
  PareSink(std::string path, FileWriter writer, const CreateOptions& options)
      : path_(std::move(path)), writer_(std::move(writer)) {
    directory_.config_text = options.config_text;
  }

  // What is known beforehand: superblock and assets.
  Status begin(std::vector<Asset> assets) {
    PARE_CHECK(writer_.write(superblock_bytes()));
    std::sort(assets.begin(), assets.end(), [](const Asset& a, const Asset& b) { return a.name < b.name; });
    for (const Asset& asset : assets) {
      PARE_ASSERT(is_asset_name(asset.name), "[pare] asset {}", asset.name);
      const std::string packed = compressed(asset.bytes);
      const std::string& stored = packed.empty() ? asset.bytes : packed;
      PareBlob blob{asset.name, packed.empty() ? "none" : "zstd", asset.bytes.size(), false, {}};
      blob.part.offset = writer_.position();
      PARE_CHECK(write_bytes(std::as_bytes(std::span(stored.data(), stored.size())), blob.part));
      directory_.assets.push_back(std::move(blob));
    }
    return {};
  }

  Status put(std::string_view name, const WeightData& weight) override {
    if (const std::string_view what = fault_of_tensor_name(name); !what.empty())
      return malformed("PK34", path_, quote(name), std::string(what));
    PARE_ASSERT(names_.insert(std::string(name)).second, "[pare] {} was put twice", name);
    if (directory_.tensors.size() >= limits::kTensors) {
      return over_cap("PK33", path_, "tensors", "tensor count is over the limit",
                      directory_.tensors.size() + 1, limits::kTensors);
    }
    PareTensor tensor;
    tensor.name = name;
    Xxh3Stream all;
    PARE_CHECK(weight.validate(path_, name));
    for (const auto& [role, part] : parts_of(weight, tensor)) PARE_CHECK(write_part(role, part, tensor, all));
    const auto sizes = tensor.shape.sizes();
    written_.push_back({tensor.name, std::string(form_name(tensor.form)),
                        tensor.any_scheme() != nullptr ? tensor.any_scheme()->text() : "",
                        std::vector<int64_t>(sizes.begin(), sizes.end()), all.digest(),
                        weight.described(tensor.name).pattern});
    directory_.tensors.push_back(std::move(tensor));
    return {};
  }

  Status finish(const Manifest& manifest) override {
    const Manifest whole = completed_manifest(manifest, written_);
    directory_.manifest = whole.to_json();
    const std::string text = pare_directory_text(directory_);
    if (text.size() > limits::kHeaderBytes) {
      return over_cap("PK33", path_, "directory", "directory of the output is larger than the limit",
                      text.size(), limits::kHeaderBytes);
    }
    const PareFrame frame{writer_.position(), text.size(), xxh3_128(std::string_view(text))};
    PARE_CHECK(writer_.write(text));
    PARE_CHECK(writer_.write(trailer_bytes(frame)));
    PARE_CHECK(self_check());
    PARE_CHECK(announce(whole));
    return writer_.publish();
  }

  uint64_t bytes_written() const override { return writer_.position(); }

 private:
  Status write_part(const std::string& role, const Tensor& values, PareTensor& tensor, Xxh3Stream& all) {
    ParePart part;
    part.role = role;
    part.dtype = values.dtype();
    part.shape = values.shape();
    part.offset = writer_.position();
    if (values.is_contiguous()) {
      const std::span bytes(values.raw(), values.size_bytes());
      all.update(bytes);
      PARE_CHECK(write_bytes(bytes, part));
    } else {
      PARE_CHECK(write_rows(values, part, all));
    }
    tensor.parts.push_back(std::move(part));
    return {};
  }

  Status write_bytes(std::span<const std::byte> bytes, ParePart& part) {
    part.bytes = bytes.size();
    part.sum = xxh3_128(bytes);
    PARE_CHECK(writer_.write(bytes));
    return writer_.pad_to(kPartAlignment);
  }

  // A view that skips bytes between its rows.
  Status write_rows(const Tensor& values, ParePart& part, Xxh3Stream& all) {
    const int64_t width = values.shape()[-1];
    const int64_t rows = width == 0 ? 0 : values.numel() / width;
    const auto row_bytes = static_cast<size_t>(width * dtype_bits(values.dtype()) / 8);
    const auto stride = static_cast<size_t>(values.row_stride() * dtype_bits(values.dtype()) / 8);
    Xxh3Stream sum;
    for (int64_t row = 0; row < rows; ++row) {
      const std::span bytes(values.raw() + static_cast<size_t>(row) * stride, row_bytes);
      sum.update(bytes);
      all.update(bytes);
      PARE_CHECK(writer_.write(bytes));
    }
    part.bytes = values.size_bytes();
    part.sum = sum.digest();
    return writer_.pad_to(kPartAlignment);
  }

  // Reads the temporary as a stranger would: structure, every part against the sum of what was handed in,
  // finite values.
  Status self_check() {
    PARE_TRY(InputFile input, InputFile::open(writer_.temporary_path(), path_));
    PARE_TRY(const auto file, PareFile::open(std::move(input)));
    const PareDirectory& found = file->directory();
    PARE_ASSERT(found.tensors.size() == directory_.tensors.size(), "[pare] {} tensors became {}",
                directory_.tensors.size(), found.tensors.size());
    for (const PareBlob& asset : found.assets)
      PARE_CHECK(file->check_part(asset.part, "asset " + quote(asset.name)));
    for (size_t i = 0; i < found.tensors.size(); ++i) {
      const PareTensor& tensor = found.tensors[i];
      for (size_t p = 0; p < tensor.parts.size(); ++p) {
        PARE_ASSERT(tensor.parts[p].sum == directory_.tensors[i].parts[p].sum, "[pare] {} changed its sum",
                    tensor.name);
        PARE_CHECK(as_self_check(
            file->check_part(tensor.parts[p], "tensor " + quote(tensor.name) + "." + tensor.parts[p].role)));
      }
      PARE_TRY(const WeightData weight, file->load(tensor));
      PARE_CHECK(check_weight_finite(weight, tensor.name, path_));
      file->release(tensor);
    }
    return {};
  }

  static Status as_self_check(Status status) {
    if (status) return status;
    status.error().exit = Exit::numeric;
    status.error().rule = "NU12";
    status.error().what = "self-check: " + status.error().what;
    return status;
  }

  std::string path_;
  FileWriter writer_;
  PareDirectory directory_;
  std::vector<WrittenTensor> written_;
  std::set<std::string> names_;
};

}  // namespace

Result<std::unique_ptr<WeightSink>> create_pare(const std::string& path, const CreateOptions& options) {
  WriteOptions write = options.write;
  if (write.expected_bytes == 0) write.expected_bytes = options.expected_bytes;
  PARE_TRY(FileWriter writer, FileWriter::create(path, write));
  auto sink = std::make_unique<PareSink>(path, std::move(writer), options);
  PARE_CHECK(sink->begin(options.assets));
  return std::unique_ptr<WeightSink>(std::move(sink));
}

}  // namespace pare
