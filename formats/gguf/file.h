// formats/gguf/file.h: one GGUF file, structure checked and mapped; internal to formats.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "formats/gguf/header.h"

namespace pare {

// Our checksums: one per tensor in declaration order, of its bytes as stored, as 32 hex digits.
inline constexpr const char* kGgufSums = "pare.xxh3_128";

class GgufFile {
 public:
  // The header and the place of every tensor are checked; no value of a tensor is read.
  static Result<std::shared_ptr<const GgufFile>> open(InputFile input);

  const std::string& path() const { return file_.path(); }
  const InputFile& file() const { return file_; }
  const GgufHeader& header() const { return header_; }
  const std::shared_ptr<const MappedFile>& mapping() const { return mapping_; }
  bool has_sums() const { return !sums_.empty(); }

  std::span<const std::byte> bytes(const GgufTensor& tensor) const;
  // GG38 when the tensor differs from its checksum; success when the file has none. `index` into tensors.
  Status check_sum(size_t index) const;
  // A plain tensor must be finite (NU01), and so must every scale of blocks (GG36).
  Status check_values(const GgufTensor& tensor) const;
  void release(const GgufTensor& tensor) const;

 private:
  explicit GgufFile(InputFile file) : file_(std::move(file)) {}
  Status read_sums();
  InputFile file_;
  std::shared_ptr<const MappedFile> mapping_;
  GgufHeader header_;
  std::vector<Hash128> sums_;  // empty: the file has none
};

}  // namespace pare
