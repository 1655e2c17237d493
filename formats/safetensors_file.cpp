#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/safetensors.h"

namespace pare {
namespace {

static_assert(std::endian::native == std::endian::little,
              "file formats are little-endian and mapped as they are");

constexpr uint64_t kLengthBytes = 8;

// The JSON text of the header; its length is checked against the file before anything is allocated.
Result<std::string> read_header_text(const InputFile& file) {
  const auto wrong_length = [&](const char* rule, const char* what, uint64_t got, const std::string& limit,
                                const char* label) {
    return malformed(rule, file.path(), "header length", what, std::to_string(got), limit, label);
  };
  if (file.size() < kLengthBytes) {
    return wrong_length(file.size() == 0 ? "ST01" : "ST02", "file too short", file.size(), "8", "need");
  }
  uint64_t length = 0;
  PARE_CHECK(file.read_at(0, std::as_writable_bytes(std::span(&length, 1))));
  if (length == 0) return wrong_length("ST03", "empty header", 0, "2", "need");
  const uint64_t room = file.size() - kLengthBytes;
  if (length > room) {
    return wrong_length(length >= (1ull << 63) ? "ST05" : "ST04", "larger than the file", length,
                        std::to_string(room), "limit");
  }
  if (length > limits::kHeaderBytes) {
    return over_cap("ST06", file.path(), "header length", "larger than the limit", length,
                    limits::kHeaderBytes);
  }
  std::string text(length, '\0');
  PARE_CHECK(file.read_at(kLengthBytes, std::as_writable_bytes(std::span(text))));
  return text;
}

uint64_t element_alignment(DType dtype) {
  return static_cast<uint64_t>(std::max<int64_t>(dtype == DType::c64 ? 4 : dtype_bytes(dtype), 1));
}

}  // namespace

Result<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::open(const std::string& path) {
  PARE_TRY(InputFile file, InputFile::open(path));
  return open(std::move(file));
}

Result<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::open(InputFile input) {
  const std::shared_ptr<SafetensorsFile> result(new SafetensorsFile(std::move(input)));
  PARE_TRY(const std::string text, read_header_text(result->file_));
  PARE_TRY(result->header_, parse_safetensors_header(text, result->file_.size(), result->path()));
  PARE_TRY(result->mapping_, MappedFile::map(result->file_));
  const auto& entries = result->header_.entries;
  result->by_name_.resize(entries.size());
  std::iota(result->by_name_.begin(), result->by_name_.end(), size_t{0});
  std::sort(result->by_name_.begin(), result->by_name_.end(),
            [&](size_t a, size_t b) { return entries[a].name < entries[b].name; });
  return std::shared_ptr<const SafetensorsFile>(result);
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto& all = header_.entries;
  const auto found =
      std::lower_bound(by_name_.begin(), by_name_.end(), name,
                       [&](size_t index, std::string_view wanted) { return all[index].name < wanted; });
  return found != by_name_.end() && all[*found].name == name ? &all[*found] : nullptr;
}

std::span<const std::byte> SafetensorsFile::bytes(const SafetensorsEntry& entry) const {
  return mapping_->bytes().subspan(header_.data_begin + entry.begin, entry.bytes());
}

Result<Tensor> SafetensorsFile::load(const SafetensorsEntry& entry) const {
  const std::span<const std::byte> data = bytes(entry);
  const bool aligned = reinterpret_cast<uintptr_t>(data.data()) % element_alignment(entry.dtype) == 0;
  if (aligned && !data.empty()) {
    return Tensor(Storage::borrow(data.data(), data.size(), mapping_, Device::cpu()), 0, entry.dtype,
                  entry.shape);
  }
  PARE_TRY(Tensor copy, Tensor::allocate(entry.dtype, entry.shape));
  if (!data.empty()) std::memcpy(copy.mutable_raw(), data.data(), data.size());
  return copy;
}

Result<Tensor> SafetensorsFile::load(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr) return malformed("ST13", path(), quote(name), "no such tensor");
  return load(*entry);
}

void SafetensorsFile::release(const SafetensorsEntry& entry) const {
  mapping_->drop(header_.data_begin + entry.begin, entry.bytes());
}

Result<std::vector<std::pair<std::string, Tensor>>> read_safetensors(const std::string& path) {
  PARE_TRY(const auto file, SafetensorsFile::open(path));
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const SafetensorsEntry& entry : file->entries()) {
    PARE_TRY(Tensor tensor, file->load(entry));
    tensors.emplace_back(entry.name, std::move(tensor));
  }
  return tensors;
}

}  // namespace pare
