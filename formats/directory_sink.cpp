#include "formats/directory_sink.h"

#include <algorithm>
#include <set>

#include "engine/core/assert.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"
#include "formats/asset_files.h"
#include "formats/checkpoint_files.h"
#include "formats/config_edit.h"
#include "formats/fault.h"
#include "formats/shard_writer.h"
#include "formats/stored_manifest.h"
#include "formats/tensor_name.h"

namespace pare {
namespace {

std::string_view config_dtype_name(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return "bfloat16";
    case DType::f16:
      return "float16";
    default:
      return "float32";
  }
}

class DirectorySink : public WeightSink {
 public:
  DirectorySink(std::string path, std::unique_ptr<DirWriter> folder, const CreateOptions& options,
                std::function<Status(const std::string&)> check)
      : path_(std::move(path)),
        folder_(std::move(folder)),
        options_(options),
        check_(std::move(check)),
        shards_(*folder_, options.expected_bytes, options.max_shard_bytes) {}

  Status put(std::string_view name, const WeightData& weight) override {
    if (const std::string_view what = fault_of_tensor_name(name); !what.empty())
      return malformed("ST26", path_, quote(name), std::string(what));
    PARE_ASSERT(names_.insert(std::string(name)).second, "[safetensors] {} was put twice", name);
    if (names_.size() > limits::kTensors) {
      return over_cap("ST25", path_, "tensors", "tensor count is over the limit", names_.size(),
                      limits::kTensors);
    }
    PARE_TRY(const Tensor tensor, stored_form(name, weight));
    PARE_CHECK(shards_.put(name, tensor));
    const auto sizes = tensor.shape().sizes();
    written_.push_back({std::string(name), "dense", "", std::vector<int64_t>(sizes.begin(), sizes.end()),
                        xxh3_128(std::span(tensor.raw(), tensor.size_bytes()))});
    if (is_weight_dtype(tensor.dtype())) widest_ = std::max(widest_.value_or(tensor.dtype()), tensor.dtype());
    return {};
  }

  Status finish(const Manifest& manifest) override {
    PARE_CHECK(shards_.finish());
    for (const FileSum& file : shards_.files()) files_.push_back(file);
    if (shards_.files().size() > 1) PARE_CHECK(add(kShardIndex, shard_index_text(shards_.index())));
    PARE_CHECK(add("config.json", edited_config()));
    for (const Asset& asset : options_.assets) {
      PARE_ASSERT(is_asset_name(asset.name), "[safetensors] asset {}", asset.name);
      PARE_CHECK(add(asset.name, asset.bytes));
    }
    for (const Asset& file : options_.made_files) PARE_CHECK(add(file.name, file.bytes));
    Manifest whole = completed_manifest(manifest, written_);
    std::sort(files_.begin(), files_.end(),
              [](const FileSum& a, const FileSum& b) { return a.name < b.name; });
    whole.files = Json::array();
    for (const FileSum& file : files_) whole.files.push_back(file_sum_json(file));
    PARE_CHECK(folder_->add(kManifestFileName, whole.to_json().dump_sorted(2) + "\n"));
    PARE_CHECK(self_check());
    PARE_CHECK(announce(whole));
    return folder_->publish();
  }

  uint64_t bytes_written() const override { return shards_.bytes_written(); }

 private:
  // Dense, contiguous, in the type of the output, finite there, and laid out as the checkpoint has it.
  Result<Tensor> stored_form(std::string_view name, const WeightData& weight) {
    if (!weight.is_dense()) PARE_CHECK(weight.validate(path_, name));
    PARE_TRY(Tensor tensor, weight.to_dense_tensor());
    const StoredTensor stored = weight.described(std::string(name));
    if (stored.scheme) is_changed_ = is_dequantized_ = true;
    std::optional<DType> target = options_.dense_dtype;
    if (weight.is_low_rank() && !target) target = stored.dtype;  // the product in the type of its factors
    if (target && is_weight_dtype(tensor.dtype()) && tensor.dtype() != *target) {
      int64_t first = -1;
      if (const int64_t count = count_overflow(tensor, *target, &first); count > 0) {
        return fault(Exit::numeric, "NU03", path_, quote(name) + index_text(tensor.shape(), first),
                     "value overflows " + std::string(dtype_name(*target)), std::to_string(count), "0");
      }
      PARE_TRY(tensor, converted(tensor, *target));
      is_changed_ = true;
    }
    PARE_CHECK(require_finite(tensor, std::string(name), path_));
    return contiguous(tensor);
  }

  static Result<Tensor> contiguous(const Tensor& tensor) {
    if (tensor.is_contiguous()) return tensor;
    PARE_TRY(Tensor copy, Tensor::allocate(tensor.dtype(), tensor.shape()));
    const auto width = static_cast<size_t>(tensor.shape()[-1] * dtype_bits(tensor.dtype()) / 8);
    const auto stride = static_cast<size_t>(tensor.row_stride() * dtype_bits(tensor.dtype()) / 8);
    const size_t rows = width == 0 ? 0 : tensor.size_bytes() / width;
    for (size_t row = 0; row < rows; ++row)
      std::copy_n(tensor.raw() + row * stride, width, copy.mutable_raw() + row * width);
    return copy;
  }

  // Verbatim unless tensors changed or a type was asked for: then the dtype follows them, and what said how they were quantized goes.
  std::string edited_config() const {
    std::string text = options_.config_text;
    if ((is_changed_ || options_.dense_dtype) && widest_) {
      const std::string value = '"' + std::string(config_dtype_name(*widest_)) + '"';
      text = with_value(with_value(text, "dtype", value), "torch_dtype", value);
    }
    if (is_dequantized_) text = without_key(text, "quantization_config");
    return text;
  }

  Status add(const std::string& name, const std::string& text) {
    files_.push_back({name, text.size(), xxh3_128(std::string_view(text))});
    return folder_->add(name, text);
  }

  // As a reader would: headers, index and shards against each other. The values were compared when each shard
  // was closed.
  Status self_check() const {
    PARE_TRY(const CheckpointFiles found, open_checkpoint(folder_->temporary_path(), {}));
    size_t count = 0;
    for (const CheckpointFile& file : found.files) count += file.file->entries().size();
    PARE_ASSERT(count == written_.size(), "[safetensors] {} tensors became {}", written_.size(), count);
    return check_ ? check_(folder_->temporary_path()) : Status();
  }

  std::string path_;
  std::unique_ptr<DirWriter> folder_;
  CreateOptions options_;
  std::function<Status(const std::string&)> check_;
  ShardWriter shards_;
  std::vector<WrittenTensor> written_;
  std::vector<FileSum> files_;
  std::set<std::string> names_;
  std::optional<DType> widest_;  // floating type of the tensors written; f32 where they differ
  bool is_changed_ = false, is_dequantized_ = false;
};

}  // namespace

Result<std::unique_ptr<WeightSink>> create_directory(const std::string& path, const CreateOptions& options,
                                                     std::function<Status(const std::string& folder)> check) {
  WriteOptions write = options.write;
  if (write.expected_bytes == 0) write.expected_bytes = options.expected_bytes;
  PARE_TRY(DirWriter folder, DirWriter::create(path, write));
  return std::unique_ptr<WeightSink>(std::make_unique<DirectorySink>(
      path, std::make_unique<DirWriter>(std::move(folder)), options, std::move(check)));
}

}  // namespace pare
