#include "formats/gguf/writer.h"

#include <algorithm>
#include <cstring>

#include "engine/core/assert.h"
#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/gguf/file.h"

namespace pare {
namespace {

constexpr size_t kSumDigits = 32;

template <typename T>
void append(std::string& bytes, T value) {
  char raw[sizeof(T)];
  std::memcpy(raw, &value, sizeof value);
  bytes.append(raw, sizeof raw);
}

void append_text(std::string& bytes, std::string_view text) {
  append(bytes, uint64_t{text.size()});
  bytes += text;
}

}  // namespace

void GgufPairs::begin(std::string_view key, GgufValueType type) {
  append_text(bytes_, key);
  append(bytes_, static_cast<uint32_t>(type));
  ++count_;
}

void GgufPairs::add(std::string_view key, uint32_t value) {
  begin(key, GgufValueType::u32);
  append(bytes_, value);
}

void GgufPairs::add(std::string_view key, float value) {
  begin(key, GgufValueType::f32);
  append(bytes_, value);
}

void GgufPairs::add(std::string_view key, bool value) {
  begin(key, GgufValueType::boolean);
  append(bytes_, static_cast<uint8_t>(value ? 1 : 0));
}

void GgufPairs::add(std::string_view key, std::string_view value) {
  begin(key, GgufValueType::string);
  append_text(bytes_, value);
}

void GgufPairs::add(std::string_view key, const std::vector<std::string>& values) {
  begin(key, GgufValueType::array);
  append(bytes_, static_cast<uint32_t>(GgufValueType::string));
  append(bytes_, uint64_t{values.size()});
  for (const std::string& value : values) append_text(bytes_, value);
}

void GgufPairs::add(std::string_view key, const std::vector<float>& values) {
  begin(key, GgufValueType::array);
  append(bytes_, static_cast<uint32_t>(GgufValueType::f32));
  append(bytes_, uint64_t{values.size()});
  for (const float value : values) append(bytes_, value);
}

void GgufPairs::add(std::string_view key, const std::vector<int32_t>& values) {
  begin(key, GgufValueType::array);
  append(bytes_, static_cast<uint32_t>(GgufValueType::i32));
  append(bytes_, uint64_t{values.size()});
  for (const int32_t value : values) append(bytes_, value);
}

uint64_t GgufSpec::bytes() const {
  const GgufTypeInfo& info = gguf_type_info(type);
  return static_cast<uint64_t>(shape.numel()) / info.block_elements * info.block_bytes;
}

Result<GgufWriter> GgufWriter::create(const std::string& path, const WriteOptions& options,
                                      const GgufPairs& pairs, std::vector<GgufSpec> tensors) {
  GgufPairs sums;
  sums.add(kGgufSums, std::vector<std::string>(tensors.size(), std::string(kSumDigits, '0')));
  std::string header(kGgufMagic);
  append(header, kGgufVersion);
  append(header, uint64_t{tensors.size()});
  append(header, pairs.count() + sums.count());
  header += pairs.bytes() + sums.bytes();
  const uint64_t sums_at = header.size() - tensors.size() * (sizeof(uint64_t) + kSumDigits);
  uint64_t offset = 0;
  for (const GgufSpec& tensor : tensors) {
    append_text(header, tensor.name);
    append(header, static_cast<uint32_t>(tensor.shape.rank()));
    for (int axis = tensor.shape.rank(); axis-- > 0;)
      append(header, static_cast<uint64_t>(tensor.shape[axis]));
    append(header, static_cast<uint32_t>(tensor.type));
    append(header, offset);
    offset += (tensor.bytes() + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment;
  }
  WriteOptions write = options;
  write.expected_bytes = header.size() + offset + kGgufAlignment;
  PARE_TRY(FileWriter writer, FileWriter::create(path, write));
  PARE_CHECK(writer.write(header));
  PARE_CHECK(writer.pad_to(kGgufAlignment));
  GgufWriter result(path, std::move(writer), std::move(tensors));
  result.sums_at_ = sums_at;
  return result;
}

Status GgufWriter::write(std::span<const std::byte> bytes) {
  PARE_ASSERT(sums_.size() < tensors_.size() && tensors_[sums_.size()].bytes() == bytes.size(),
              "[gguf] {} bytes for tensor {}", bytes.size(), sums_.size());
  sums_.push_back(xxh3_128(bytes));
  PARE_CHECK(writer_.write(bytes));
  return writer_.pad_to(kGgufAlignment);
}

Status GgufWriter::finish() {
  PARE_ASSERT(sums_.size() == tensors_.size(), "[gguf] {} of {} tensors", sums_.size(), tensors_.size());
  std::string texts;
  for (const Hash128& sum : sums_) append_text(texts, sum.hex());
  PARE_CHECK(writer_.write_at(sums_at_, std::as_bytes(std::span(texts.data(), texts.size()))));
  PARE_TRY(InputFile input, InputFile::open(writer_.temporary_path(), path_));
  PARE_TRY(const auto file, GgufFile::open(std::move(input)));
  const auto& found = file->header().tensors;
  PARE_ASSERT(found.size() == tensors_.size(), "[gguf] {} tensors became {}", tensors_.size(), found.size());
  for (size_t i = 0; i < found.size(); ++i) {
    Status status =
        xxh3_128(file->bytes(found[i])) == sums_[i] ? file->check_values(found[i]) : file->check_sum(i);
    if (!status) {
      Error error = std::move(status).error();
      error.exit = Exit::numeric;
      error.rule = "NU12";
      error.what = "self-check: " + error.what;
      return error;
    }
    file->release(found[i]);
  }
  return writer_.publish();
}

}  // namespace pare
