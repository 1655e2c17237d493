#include "formats/pare_file.h"

#include <fmt/core.h>
#include <zstd.h>

#include <algorithm>

#include "engine/core/checked.h"
#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/pare_directory.h"
#include "formats/pare_frame.h"
#include "formats/pare_layout.h"

namespace pare {
namespace {

// Row pointers rise from 0 to the number of kept weights; columns rise inside a row.
Status check_sparse_values(const PareTensor& tensor, const Tensor& pointers, const Tensor& columns,
                           const std::string& path) {
  const std::string where = "tensor " + quote(tensor.name);
  const int64_t kept = columns.numel();
  const int64_t* row = pointers.data<int64_t>();
  for (int64_t i = 0; i < pointers.numel(); ++i) {
    const int64_t lowest = i == 0 ? 0 : row[i - 1];
    const int64_t highest = i == 0 ? 0 : kept;
    const bool is_last = i + 1 == pointers.numel();
    if (row[i] >= lowest && row[i] <= highest && (!is_last || row[i] == kept)) continue;
    return malformed("PK11", path, fmt::format("{}.row_pointers[{}]", where, i), "not monotone",
                     std::to_string(row[i]),
                     is_last ? std::to_string(kept) : fmt::format("{} to {}", lowest, highest));
  }
  const int32_t* column = columns.data<int32_t>();
  for (int64_t r = 0; r + 1 < pointers.numel(); ++r) {
    int64_t lowest = 0;
    for (int64_t i = row[r]; i < row[r + 1]; ++i) {
      if (column[i] < lowest || column[i] >= tensor.shape[1]) {
        return malformed("PK11", path, fmt::format("{}.columns[{}]", where, i),
                         "column index out of range or order", std::to_string(column[i]),
                         fmt::format("{} to {}", lowest, tensor.shape[1] - 1));
      }
      lowest = int64_t{column[i]} + 1;
    }
  }
  return {};
}

}  // namespace

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

std::shared_ptr<const QuantizedTensor> PareFile::quantized(const PareTensor& tensor) const {
  auto result = std::make_shared<QuantizedTensor>();
  result->scheme = *tensor.scheme;
  result->shape = tensor.shape;
  result->activation = tensor.activation;
  for (const ParePart& part : tensor.parts) {
    if (part.role == "codes") result->codes = view(part);
    if (part.role == "scales") result->scales = view(part);
    if (part.role == "zero_points") result->zero_points = view(part);
    if (part.role == "minimums") result->minimums = view(part);
    if (part.role == "group_index") result->group_index = view(part);
    if (part.role == "codebook") result->codebook = view(part);
  }
  return result;
}

Status PareFile::check_values(const PareTensor& tensor) const {
  if (tensor.form == PareForm::quantized) return quantized(tensor)->validate(path(), tensor.name);
  if (tensor.form == PareForm::sparse) {
    return check_sparse_values(tensor, view(*tensor.part("row_pointers")), view(*tensor.part("columns")),
                               path());
  }
  return {};
}

Result<WeightData> PareFile::load(const PareTensor& tensor) const {
  switch (tensor.form) {
    case PareForm::dense:
      return WeightData{view(tensor.parts[0]), false};
    case PareForm::quantized:
      return WeightData{quantized(tensor), tensor.transposed};
    case PareForm::sparse:
    case PareForm::low_rank:
      return unsupported("PK20", path(), "tensor " + quote(tensor.name) + ".form",
                         "this form cannot be loaded yet", std::string(form_name(tensor.form)));
    case PareForm::alias:
      break;
  }
  PARE_ASSERT(false, "[pare] load of the alias {}", tensor.name);
  return Error{};
}

void PareFile::release(const PareTensor& tensor) const {
  for (const ParePart& part : tensor.parts) mapping_->drop(part.offset, part.bytes);
}

}  // namespace pare
