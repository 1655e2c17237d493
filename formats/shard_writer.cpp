#include "formats/shard_writer.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/core/assert.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/fault.h"

namespace pare {
namespace {

constexpr size_t kPieceBytes = 1 << 20;
constexpr uint64_t kLeastReserved = 16 << 10, kMostReserved = 512 << 10;

// About 120 bytes of header per tensor; a 64th of the data covers all but tiny models, which are copied
// instead.
uint64_t reserved_for(uint64_t expected_bytes) {
  return std::clamp(expected_bytes / 64, kLeastReserved, kMostReserved) / 64 * 64;
}

uint64_t element_bytes(DType dtype) {
  return static_cast<uint64_t>(std::max<int64_t>(dtype_bytes(dtype), 1));
}

// Calls body(piece) for all bytes of [begin, end) of what was written.
template <typename Body>
Status for_each_piece(const FileWriter& writer, uint64_t begin, uint64_t end, Body body) {
  std::vector<std::byte> buffer(static_cast<size_t>(std::min<uint64_t>(kPieceBytes, end - begin)));
  for (uint64_t offset = begin; offset < end; offset += buffer.size()) {
    const std::span<std::byte> piece(buffer.data(),
                                     static_cast<size_t>(std::min<uint64_t>(buffer.size(), end - offset)));
    PARE_CHECK(writer.read_back(offset, piece));
    PARE_CHECK(body(std::span<const std::byte>(piece)));
  }
  return {};
}

}  // namespace

ShardWriter::ShardWriter(DirWriter& folder, uint64_t expected_bytes, uint64_t max_shard_bytes)
    : folder_(folder), reserved_bytes_(reserved_for(expected_bytes)), max_shard_bytes_(max_shard_bytes) {}

std::string ShardWriter::temporary_name() const {
  return fmt::format("shard-{:05}", files_.size() + 1);
}

Status ShardWriter::open_shard() {
  PARE_TRY(writer_, folder_.file(temporary_name()));
  PARE_CHECK(writer_->write(std::string(reserved_bytes_, ' ')));
  return {};
}

Status ShardWriter::put(std::string_view name, const Tensor& tensor) {
  const std::span bytes(tensor.raw(), tensor.size_bytes());
  if (writer_ && !tensors_.empty() && data_bytes_ + bytes.size() > max_shard_bytes_)
    PARE_CHECK(close_shard());
  if (!writer_) PARE_CHECK(open_shard());
  tensors_.push_back(
      {{std::string(name), tensor.dtype(), tensor.shape()}, writer_->position(), xxh3_128(bytes)});
  data_bytes_ += bytes.size();
  bytes_written_ += bytes.size();
  return writer_->write(bytes);
}

// The shard once more, in reference order behind a header of its size.
Result<FileWriter> ShardWriter::rewritten(std::vector<Placed>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const Placed& a, const Placed& b) {
    return a.spec.dtype != b.spec.dtype ? a.spec.dtype > b.spec.dtype : a.spec.name < b.spec.name;
  });
  std::vector<SafetensorsSpec> specs;
  for (const Placed& placed : tensors) specs.push_back(placed.spec);
  PARE_TRY(const std::string header, safetensors_header_bytes(specs, 0, temporary_name()));
  PARE_TRY(FileWriter copy, folder_.file(temporary_name()));
  PARE_CHECK(copy.write(header));
  for (Placed& placed : tensors) {
    const uint64_t begin = placed.offset;
    placed.offset = copy.position();
    PARE_CHECK(for_each_piece(*writer_, begin, begin + placed.spec.bytes(),
                              [&](auto piece) { return copy.write(piece); }));
  }
  return copy;
}

// Reads everything back: each tensor against the sum of what was handed in; gives the sum of the file.
Result<FileSum> ShardWriter::check_written(const FileWriter& writer,
                                           const std::vector<Placed>& tensors) const {
  Xxh3Stream all;
  const auto add = [&](std::span<const std::byte> piece) {
    all.update(piece);
    return Status();
  };
  PARE_CHECK(for_each_piece(writer, 0, tensors.empty() ? writer.position() : tensors[0].offset, add));
  for (const Placed& placed : tensors) {
    Xxh3Stream one;
    PARE_CHECK(for_each_piece(writer, placed.offset, placed.offset + placed.spec.bytes(), [&](auto piece) {
      one.update(piece);
      return add(piece);
    }));
    if (one.digest() != placed.sum) {
      return fault(Exit::numeric, "NU12", temporary_name(), quote(placed.spec.name),
                   "self-check: written tensor differs from what was handed in", one.digest().hex(),
                   placed.sum.hex(), "expected");
    }
  }
  return FileSum{temporary_name(), writer.position(), all.digest()};
}

Status ShardWriter::close_shard() {
  std::vector<SafetensorsSpec> specs;
  bool is_aligned = true;
  for (const Placed& placed : tensors_) {
    specs.push_back(placed.spec);
    is_aligned = is_aligned && placed.offset % element_bytes(placed.spec.dtype) == 0;
  }
  PARE_TRY(std::string header, safetensors_header_bytes(specs, 0, temporary_name()));
  if (header.size() <= reserved_bytes_ && is_aligned) {
    PARE_TRY(header, safetensors_header_bytes(specs, reserved_bytes_, temporary_name()));
    PARE_CHECK(writer_->write_at(0, std::as_bytes(std::span(header))));
  } else {
    PARE_TRY(writer_, rewritten(tensors_));
  }
  PARE_TRY(FileSum sum, check_written(*writer_, tensors_));
  PARE_CHECK(writer_->publish());
  writer_.reset();
  files_.push_back(std::move(sum));
  std::vector<std::string>& names = names_.emplace_back();
  for (const Placed& placed : tensors_) names.push_back(placed.spec.name);
  index_.total_size = index_.total_size.value_or(0) + data_bytes_;
  tensors_.clear();
  data_bytes_ = 0;
  if (files_.size() > limits::kShards)
    return over_cap("IX18", files_.back().name, "shards", "number of shards is over the limit", files_.size(),
                    limits::kShards);
  return {};
}

Status ShardWriter::finish() {
  if (!writer_ && files_.empty()) PARE_CHECK(open_shard());
  if (writer_) PARE_CHECK(close_shard());
  for (size_t i = 0; i < files_.size(); ++i) {
    const std::string name = files_.size() == 1
                                 ? std::string(kSingleWeights)
                                 : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, files_.size());
    PARE_CHECK(folder_.rename(files_[i].name, name));
    files_[i].name = name;
    for (const std::string& tensor : names_[i]) index_.weight_map.emplace_back(tensor, name);
    index_.shards.push_back(name);
  }
  std::sort(index_.weight_map.begin(), index_.weight_map.end());
  return {};
}

}  // namespace pare
