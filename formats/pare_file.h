// formats/pare_file.h: a .pare file, structure checked and mapped; internal to formats.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "engine/core/file.h"
#include "engine/core/result.h"
#include "engine/models/weight_source.h"
#include "formats/pare_format.h"

namespace pare {

class PareFile {
 public:
  // Frame, directory and layout are checked always; the payload is not touched. Mapped only after that.
  static Result<std::shared_ptr<const PareFile>> open(InputFile input);

  const std::string& path() const { return file_.path(); }
  const InputFile& file() const { return file_; }
  const PareDirectory& directory() const { return directory_; }
  uint64_t payload_end() const { return payload_end_; }

  std::span<const std::byte> bytes(const ParePart& part) const;
  const std::shared_ptr<const MappedFile>& mapping() const { return mapping_; }
  // The sum of a part and the zeros behind it (PK17). `owner` names it in the error.
  Status check_part(const ParePart& part, const std::string& owner) const;
  // The bytes of an asset, decompressed into exactly the size that the directory declares (PK12).
  Result<std::string> decode(const PareBlob& blob) const;

  // Views of the mapping, values unchecked. `tensor` is no alias.
  Result<WeightData> load(const PareTensor& tensor) const;
  // Scales, codes, masks, indices, finite values of sparse and low-rank tensors (PK07, PK08, PK10, PK11,
  // NU01, NU02).
  Status check_values(const PareTensor& tensor) const;
  void release(const PareTensor& tensor) const;

 private:
  explicit PareFile(InputFile file) : file_(std::move(file)) {}
  Tensor view(const ParePart& part) const;
  InputFile file_;
  uint64_t payload_end_ = 0;
  PareDirectory directory_;
  std::shared_ptr<const MappedFile> mapping_;
};

}  // namespace pare
