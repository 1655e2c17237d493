// formats/stored_manifest.h: pare_manifest.json of the folders we write, and what it says about files and
// tensors; internal to formats.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/hash.h"
#include "engine/core/manifest.h"
#include "engine/core/result.h"

namespace pare {

// Member of TensorRecord::extra that holds the sum of the tensor's bytes as stored.
inline constexpr const char* kTensorSumKey = "xxh3_128";

struct FileSum {
  std::string name;
  uint64_t bytes = 0;
  Hash128 sum;
};

class StoredManifest {
 public:
  // Exit 3 when it is not what we write.
  static Result<StoredManifest> parse(std::string_view text, std::string_view path);

  const Manifest& manifest() const { return manifest_; }
  const std::vector<FileSum>& files() const { return files_; }
  std::optional<Hash128> tensor_sum(std::string_view name) const;
  const FileSum* file(std::string_view name) const;

 private:
  Manifest manifest_;
  std::vector<FileSum> files_;
  std::vector<std::pair<std::string, Hash128>> tensors_;  // sorted by name
};

// A tensor as it was written.
struct WrittenTensor {
  std::string name;
  std::string kind;    // "dense", "quantized", "sparse", "low_rank"
  std::string scheme;  // text of the scheme; empty for dense ones
  std::vector<int64_t> shape;
  Hash128 sum;              // of the stored bytes, all parts in order
  std::string pattern = {};  // of sparse ones, or of a sparse base
};

// The manifest of an output: the records that the command made, put right by what was really stored (a
// quantized tensor written to safetensors is dense there), completed by tensors that were only copied, and in
// stored order. A record of a tensor that was never written is a bug of the caller.
Manifest completed_manifest(const Manifest& manifest, const std::vector<WrittenTensor>& written);

Json file_sum_json(const FileSum& file);

}  // namespace pare
