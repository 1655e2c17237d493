#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "engine/core/assert.h"
#include "engine/core/checked.h"
#include "engine/core/json.h"
#include "engine/core/limits.h"
#include "formats/fault.h"
#include "formats/safetensors.h"

namespace pare {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kDataAlignment = 64;
constexpr size_t kReadBackBytes = 1 << 20;

std::string header_json(std::span<const SafetensorsSpec> specs, const SafetensorsMetadata& metadata) {
  // Text by hand around the escaped names: a document of a million entries would cost ten times its text.
  std::string text = R"({"__metadata__":{"format":"pt")";
  for (const auto& [key, value] : metadata)
    text += fmt::format(",{}:{}", Json(key).dump(), Json(value).dump());
  text += '}';
  uint64_t offset = 0;
  for (const SafetensorsSpec& spec : specs) {
    text += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", Json(spec.name).dump(),
                        dtype_name(spec.dtype), fmt::join(spec.shape.sizes(), ","), offset,
                        offset + spec.bytes());
    offset += spec.bytes();
  }
  return text + '}';
}

Status check_readable(const FileWriter& writer, Hash128 expected, uint64_t size) {
  // Through the same descriptor: what a reader will find is what was handed in.
  Xxh3Stream found;
  std::vector<std::byte> buffer(kReadBackBytes);
  for (uint64_t offset = 0; offset < size; offset += buffer.size()) {
    const std::span<std::byte> piece(buffer.data(),
                                     static_cast<size_t>(std::min<uint64_t>(buffer.size(), size - offset)));
    PARE_CHECK(writer.read_back(offset, piece));
    found.update(piece);
  }
  if (found.digest() == expected) return {};
  return fault(Exit::numeric, "NU12", writer.temporary_path(), "self-check",
               "written file differs from what was handed in", found.digest().hex(), expected.hex(),
               "expected");
}

}  // namespace

uint64_t SafetensorsSpec::bytes() const {
  return static_cast<uint64_t>(shape.numel()) * static_cast<uint64_t>(dtype_bits(dtype)) / 8;
}

void sort_reference_order(std::vector<SafetensorsSpec>& specs) {
  std::sort(specs.begin(), specs.end(), [](const SafetensorsSpec& a, const SafetensorsSpec& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
}

Result<std::string> safetensors_header_bytes(std::span<const SafetensorsSpec> specs, uint64_t data_begin,
                                             std::string_view path, const SafetensorsMetadata& metadata) {
  std::string json = header_json(specs, metadata);
  const uint64_t minimum = kLengthBytes + json.size();
  const uint64_t begin = data_begin != 0 ? data_begin : Checked(minimum).aligned_up(kDataAlignment).value();
  PARE_ASSERT(begin >= minimum, "[safetensors] header of {} bytes does not fit into {}", minimum, begin);
  const uint64_t length = begin - kLengthBytes;
  if (length > limits::kHeaderBytes) {
    return over_cap("ST06", path, "header length", "header of the output is larger than the limit", length,
                    limits::kHeaderBytes);
  }
  json.resize(length, ' ');
  std::string text(kLengthBytes, '\0');
  std::memcpy(text.data(), &length, kLengthBytes);
  return text + json;
}

SafetensorsWriter::SafetensorsWriter(FileWriter writer, std::vector<SafetensorsSpec> specs,
                                     uint64_t total_bytes)
    : writer_(std::move(writer)), specs_(std::move(specs)), end_(total_bytes) {}

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path, const WriteOptions& options,
                                                    std::vector<SafetensorsSpec> specs,
                                                    const SafetensorsMetadata& metadata) {
  PARE_TRY(const std::string header, safetensors_header_bytes(specs, 0, path, metadata));
  uint64_t total = header.size();
  for (const SafetensorsSpec& spec : specs) total += spec.bytes();
  WriteOptions sized = options;
  sized.expected_bytes = total;
  PARE_TRY(FileWriter file, FileWriter::create(path, sized));
  SafetensorsWriter writer(std::move(file), std::move(specs), total);
  PARE_CHECK(writer.write(std::as_bytes(std::span(header))));
  return writer;
}

Status SafetensorsWriter::write(std::span<const std::byte> bytes) {
  PARE_ASSERT(writer_.position() + bytes.size() <= end_,
              "[safetensors] more data than declared: {} + {} of {}", writer_.position(), bytes.size(), end_);
  checksum_.update(bytes);
  return writer_.write(bytes);
}

Status SafetensorsWriter::write(const Tensor& tensor) {
  PARE_ASSERT(next_ < specs_.size(), "[safetensors] tensor {} of {}", next_, specs_.size());
  const SafetensorsSpec& spec = specs_[next_++];
  PARE_ASSERT(tensor.dtype() == spec.dtype && tensor.shape() == spec.shape,
              "[safetensors] {} is {} {}, declared {} {}", spec.name, dtype_name(tensor.dtype()),
              tensor.shape().text(), dtype_name(spec.dtype), spec.shape.text());
  PARE_ASSERT(tensor.is_contiguous(), "[safetensors] {} has gaps between rows", spec.name);
  return write(std::span(tensor.raw(), tensor.size_bytes()));
}

Status SafetensorsWriter::finish() {
  PARE_ASSERT(writer_.position() == end_, "[safetensors] {} of {} bytes came", writer_.position(), end_);
  PARE_CHECK(check_readable(writer_, checksum_.digest(), end_));
  return writer_.publish();
}

Status write_safetensors(const std::string& path, const WriteOptions& options,
                         std::span<const std::pair<std::string, Tensor>> tensors) {
  std::vector<SafetensorsSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype(), tensor.shape()});
  sort_reference_order(specs);
  PARE_TRY(SafetensorsWriter writer, SafetensorsWriter::create(path, options, specs));
  for (const SafetensorsSpec& spec : specs) {
    const auto found = std::find_if(tensors.begin(), tensors.end(),
                                    [&](const auto& pair) { return pair.first == spec.name; });
    PARE_CHECK(writer.write(found->second));
  }
  return writer.finish();
}

}  // namespace pare
