#include "formats/pare_file.h"

#include <fmt/core.h>
#include <zstd.h>

#include <algorithm>

#include "engine/core/checked.h"
#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/pare_directory.h"
#include "formats/pare_forms.h"
#include "formats/pare_frame.h"
#include "formats/pare_layout.h"

namespace pare {
Result<std::shared_ptr<const PareFile>> PareFile::open(InputFile input) {
  const std::shared_ptr<PareFile> result(new PareFile(std::move(input)));
  PARE_TRY(const PareFrame frame, read_pare_frame(result->file_));
  PARE_TRY(const std::string text, read_pare_directory_text(result->file_, frame));
  PARE_TRY(result->directory_, parse_pare_directory(text, result->path()));
  result->payload_end_ = frame.directory_offset;
  PARE_CHECK(check_layout(result->directory_, frame.directory_offset, result->path()));
  PARE_TRY(result->mapping_, MappedFile::map(result->file_));
  return std::shared_ptr<const PareFile>(result);
}

std::span<const std::byte> PareFile::bytes(const ParePart& part) const {
  return mapping_->bytes().subspan(part.offset, part.bytes);
}

Status PareFile::check_part(const ParePart& part, const std::string& owner) const {
  const Hash128 found = xxh3_128(bytes(part));
  if (found != part.sum) {
    return malformed(
        "PK17", path(), owner,
        fmt::format("checksum mismatch in bytes {} to {}", part.offset, part.offset + part.bytes),
        found.hex(), part.sum.hex());
  }
  const uint64_t end = part.offset + part.bytes;
  const uint64_t padded = std::min(Checked(end).aligned_up(kPartAlignment).value(), payload_end_);
  for (uint64_t i = end; i < padded; ++i) {
    if (mapping_->bytes()[i] == std::byte{0}) continue;
    return malformed("PK17", path(), fmt::format("byte {}", i), "padding behind " + owner + " is not zero",
                     fmt::format("{:#04x}", static_cast<unsigned>(mapping_->bytes()[i])), "0");
  }
  return {};
}

Result<std::string> PareFile::decode(const PareBlob& blob) const {
  const std::string owner = "asset " + quote(blob.name);
  PARE_CHECK(check_part(blob.part, owner));
  const auto stored = bytes(blob.part);
  if (blob.encoding == "none")
    return std::string(reinterpret_cast<const char*>(stored.data()), stored.size());
  const auto wrong_size = [&](std::string got) {
    return malformed("PK12", path(), owner, "does not decompress to its declared size", std::move(got),
                     std::to_string(blob.decoded_bytes));
  };
  const unsigned long long declared = ZSTD_getFrameContentSize(stored.data(), stored.size());
  if (declared != blob.decoded_bytes)
    return wrong_size(declared <= INT64_MAX ? std::to_string(declared) : "no size");
  std::string text(static_cast<size_t>(blob.decoded_bytes), '\0');
  const size_t size = ZSTD_decompress(text.data(), text.size(), stored.data(), stored.size());
  if (ZSTD_isError(size) != 0) return wrong_size(ZSTD_getErrorName(size));
  if (size != text.size()) return wrong_size(std::to_string(size));
  return text;
}

Tensor PareFile::view(const ParePart& part) const {
  const auto data = bytes(part);
  return Tensor(Storage::borrow(data.data(), data.size(), mapping_, Device::cpu()), 0, part.dtype,
                part.shape);
}

Status PareFile::check_values(const PareTensor& tensor) const {
  if (tensor.form == PareForm::dense || tensor.form == PareForm::alias) return {};
  PARE_TRY(const WeightData weight, load(tensor));
  PARE_CHECK(weight.validate(path(), tensor.name));
  const PareContent& content = tensor.base ? *tensor.base : tensor;
  if (content.form != PareForm::sparse) return {};
  const int64_t kept = *weight.described(tensor.name).kept;
  if (kept == content.kept) return {};
  return malformed("PK11", path(), "tensor " + quote(tensor.name) + ".kept",
                   "differs from the weights that are there", std::to_string(content.kept),
                   std::to_string(kept));
}

Result<WeightData> PareFile::load(const PareTensor& tensor) const {
  return weight_of(tensor, [this](const ParePart& part) { return view(part); });
}

void PareFile::release(const PareTensor& tensor) const {
  for (const ParePart& part : tensor.parts) mapping_->drop(part.offset, part.bytes);
}

}  // namespace pare
