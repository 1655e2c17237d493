#include "distill/teacher_cache_part.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "distill/cache_fields.h"
#include "engine/core/assert.h"
#include "engine/core/checked.h"
#include "engine/core/parallel.h"

namespace pare {
namespace {

constexpr std::string_view kMagic = "PARETOPK";
constexpr uint64_t kFrontBytes = 64, kSumBytes = 16, kTrailerBytes = 32;

using Front = std::array<std::byte, kFrontBytes>;

void put_number(std::byte* at, uint64_t value) {
  for (int i = 0; i < 8; ++i) at[i] = std::byte(value >> (8 * i) & 0xff);
}

Front front_of(const TeacherCacheHeader& header, int64_t part) {
  Front front{};
  std::memcpy(front.data(), kMagic.data(), kMagic.size());
  put_number(front.data() + 8, uint64_t(part));
  put_number(front.data() + 16, uint64_t(header.windows_of_part(part)));
  put_number(front.data() + 24, header.window_bytes());
  const std::array<std::byte, 16> hash = header.hash().canonical();
  std::copy(hash.begin(), hash.end(), front.begin() + 32);
  return front;
}

// What a file of the part has; the header's sizes are bounded, yet the product of all may be anything.
Checked file_bytes(const TeacherCacheHeader& header, int64_t part) {
  const Checked windows = uint64_t(header.windows_of_part(part));
  return windows * (Checked(header.window_bytes()) + kSumBytes) + kFrontBytes + kTrailerBytes;
}

Hash128 sum_of(std::span<const std::byte> front, std::span<const std::byte> sums) {
  Xxh3Stream stream;
  stream.update(front);
  stream.update(sums);
  return stream.digest();
}

// Which field of the front is not what the cache says, for the message.
const char* differing_field(std::span<const std::byte> got, const Front& expected) {
  struct Field {
    const char* name;
    size_t begin, end;
  };
  constexpr std::array kFields{Field{"magic", 0, 8}, Field{"part", 8, 16}, Field{"windows", 16, 24},
                               Field{"window bytes", 24, 32}, Field{"header hash", 32, 48}};
  for (const Field& field : kFields)
    if (!std::equal(got.begin() + int64_t(field.begin), got.begin() + int64_t(field.end),
                    expected.begin() + int64_t(field.begin)))
      return field.name;
  return "reserved bytes";
}

}  // namespace

Result<Hash128> write_teacher_cache_part(const std::string& path, const TeacherCacheHeader& header,
                                         int64_t part, std::span<const std::byte> windows) {
  const int64_t count = header.windows_of_part(part);
  const size_t window_bytes = header.window_bytes();
  PARE_ASSERT(windows.size() == size_t(count) * window_bytes, "[teacher_cache] part of {} bytes",
              windows.size());
  std::vector<std::byte> sums(size_t(count) * kSumBytes);
  parallel_for(count, [&](int64_t i) {
    const auto sum = xxh3_128(windows.subspan(size_t(i) * window_bytes, window_bytes)).canonical();
    std::copy(sum.begin(), sum.end(), sums.begin() + i * int64_t(kSumBytes));
  });
  const Front front = front_of(header, part);
  const Hash128 sum = sum_of(front, sums);
  std::array<std::byte, kTrailerBytes> trailer;
  const std::array<std::byte, 16> canonical = sum.canonical();
  std::copy(canonical.begin(), canonical.end(), trailer.begin());
  put_number(trailer.data() + 16, file_bytes(header, part).value());
  std::memcpy(trailer.data() + 24, kMagic.data(), kMagic.size());
  // A file of that name is what a run that was killed left behind.
  PARE_TRY(FileWriter writer,
           FileWriter::create(path, {.force = true, .expected_bytes = file_bytes(header, part).value()}));
  for (const std::span<const std::byte> bytes :
       {std::span<const std::byte>(front), windows, std::span<const std::byte>(sums),
        std::span<const std::byte>(trailer)})
    PARE_CHECK(writer.write(bytes));
  PARE_CHECK(writer.publish());
  return sum;
}

Result<TeacherCachePart> TeacherCachePart::open(const InputFile& file, const TeacherCacheHeader& header,
                                                int64_t part, const Hash128* sum) {
  const std::string& path = file.path();
  const Checked expected_bytes = file_bytes(header, part);
  if (!expected_bytes.valid() || file.size() != expected_bytes.value())
    return cache_error("TC01", path, "file size", "not what the index says", fmt::format("{}", file.size()),
                       expected_bytes.valid() ? fmt::format("{}", expected_bytes.value()) : "a size");
  TeacherCachePart result;
  PARE_TRY(result.file_, MappedFile::map(file));
  const std::span<const std::byte> bytes = result.file_->bytes();
  const Front front = front_of(header, part);
  if (!std::equal(front.begin(), front.end(), bytes.begin()))
    return cache_error("TC01", path, differing_field(bytes, front), "not this part of this cache");
  result.window_bytes_ = header.window_bytes();
  result.windows_ = uint64_t(header.windows_of_part(part));
  const std::span<const std::byte> trailer = bytes.last(kTrailerBytes);
  std::array<std::byte, 16> end;
  put_number(end.data(), file.size());
  std::memcpy(end.data() + 8, kMagic.data(), kMagic.size());
  if (!std::equal(end.begin(), end.end(), trailer.begin() + 16))
    return cache_error("TC01", path, "trailer", "not that of a part");
  const size_t sums_at = kFrontBytes + result.windows_ * result.window_bytes_;
  result.sum_ = sum_of(bytes.first(kFrontBytes), bytes.subspan(sums_at, result.windows_ * kSumBytes));
  std::array<std::byte, 16> stored;
  std::copy_n(trailer.begin(), stored.size(), stored.begin());
  for (const Hash128& expected : {Hash128::from_canonical(stored), sum != nullptr ? *sum : result.sum_})
    if (result.sum_ != expected)
      return cache_error("TC02", path, "sums of the windows", "checksum mismatch", result.sum_.hex(),
                         expected.hex());
  return result;
}

Result<std::span<const std::byte>> TeacherCachePart::window(int64_t index) const {
  PARE_ASSERT(index >= 0 && uint64_t(index) < windows_, "[teacher_cache] window {} of {}", index, windows_);
  const std::span<const std::byte> bytes = file_->bytes();
  const auto window = bytes.subspan(kFrontBytes + uint64_t(index) * window_bytes_, window_bytes_);
  std::array<std::byte, 16> stored;
  std::copy_n(bytes.begin() + int64_t(kFrontBytes + windows_ * window_bytes_ + uint64_t(index) * kSumBytes),
              stored.size(), stored.begin());
  const Hash128 expected = Hash128::from_canonical(stored), got = xxh3_128(window);
  if (got != expected)
    return cache_error("TC02", file_->path(), fmt::format("window {} of the part", index),
                       "checksum mismatch", got.hex(), expected.hex());
  return window;
}

void TeacherCachePart::release(int64_t index) const {
  file_->drop(kFrontBytes + uint64_t(index) * window_bytes_, window_bytes_);
}

}  // namespace pare
