#include "formats/pare_frame.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/core/checked.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/fault.h"

namespace pare {
namespace {

// Superblock: magic, version u32, flags u32, zeros.
constexpr size_t kVersionAt = 8, kFlagsAt = 12, kReservedAt = 16;
// Trailer: directory offset u64, bytes u64, sum of the directory, sum of superblock and trailer, file bytes
// u64, magic.
constexpr size_t kOffsetAt = 0, kBytesAt = 8, kDirectorySumAt = 16, kFrameSumAt = 32, kFileBytesAt = 48,
                 kEndMarkAt = 56;
constexpr size_t kSumBytes = 16;

using Superblock = std::array<std::byte, kSuperblockBytes>;
using Trailer = std::array<std::byte, kTrailerBytes>;

template <typename Value>
Value get(std::span<const std::byte> bytes, size_t at) {
  Value value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

template <typename Value>
void set(std::span<std::byte> bytes, size_t at, Value value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

Hash128 get_sum(const Trailer& trailer, size_t at) {
  return Hash128::from_canonical(std::span<const std::byte, kSumBytes>(trailer.data() + at, kSumBytes));
}

void set_sum(Trailer& trailer, size_t at, const Hash128& sum) {
  const auto bytes = sum.canonical();
  std::copy(bytes.begin(), bytes.end(), trailer.begin() + static_cast<ptrdiff_t>(at));
}

// Over the superblock and the trailer without the sum itself.
Hash128 frame_sum(const Superblock& superblock, const Trailer& trailer) {
  Xxh3Stream stream;
  stream.update(superblock);
  stream.update(std::span(trailer).first(kFrameSumAt));
  stream.update(std::span(trailer).subspan(kFrameSumAt + kSumBytes));
  return stream.digest();
}

bool has_magic(std::span<const std::byte> bytes, size_t at) {
  return std::memcmp(bytes.data() + at, kPareMagic.data(), kPareMagic.size()) == 0;
}

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return text;
}

// Bytes behind the end of a whole container, looked for near the end; 0: there is none.
Result<uint64_t> trailing_bytes(const InputFile& file) {
  constexpr uint64_t kLookedAt = 64 << 10;
  std::vector<std::byte> tail(static_cast<size_t>(std::min(file.size(), kLookedAt)));
  const uint64_t base = file.size() - tail.size();
  PARE_CHECK(file.read_at(base, tail));
  for (size_t end = tail.size(); end >= kTrailerBytes; --end) {
    const auto trailer = std::span(tail).subspan(end - kTrailerBytes, kTrailerBytes);
    if (has_magic(trailer, kEndMarkAt) && get<uint64_t>(trailer, kFileBytesAt) == base + end)
      return tail.size() - end;
  }
  return uint64_t{0};
}

Result<Trailer> read_trailer(const InputFile& file) {
  Trailer trailer{};
  PARE_CHECK(file.read_at(file.size() - kTrailerBytes, trailer));
  if (!has_magic(trailer, kEndMarkAt)) {
    PARE_TRY(const uint64_t extra, trailing_bytes(file));
    if (extra > 0) {
      return malformed("PK03", file.path(), "trailer",
                       fmt::format("{} trailing bytes behind the end of the container", extra),
                       std::to_string(file.size()), std::to_string(file.size() - extra));
    }
    return malformed("PK01", file.path(), "trailer",
                     "trailer missing, its end mark is not there; truncated or damaged file",
                     hex(std::span(trailer).subspan(kEndMarkAt)), hex(std::as_bytes(std::span(kPareMagic))));
  }
  const auto length = get<uint64_t>(trailer, kFileBytesAt);
  if (length != file.size()) {
    return malformed("PK18", file.path(), "trailer.file_bytes", "differs from the length of the file",
                     std::to_string(length), std::to_string(file.size()));
  }
  return trailer;
}

Status check_superblock(const Superblock& superblock, const std::string& path) {
  const auto version = get<uint32_t>(superblock, kVersionAt);
  if (version == 0)
    return malformed("PK19", path, "version", "impossible version", "0", std::to_string(kPareVersion));
  if (version != kPareVersion) {
    return unsupported("PK04", path, "version", "version is newer than this program", std::to_string(version),
                       std::to_string(kPareVersion));
  }
  const auto flags = get<uint32_t>(superblock, kFlagsAt);
  if ((flags & kFlagEncrypted) != 0) return unsupported("PK21", path, "encryption", "not supported");
  if ((flags & kFlagSigned) != 0) return unsupported("PK21", path, "signature", "not supported");
  if (flags != 0)
    return unsupported("PK21", path, "flags", "flag of a later version", fmt::format("{:#x}", flags));
  const auto reserved = std::span(superblock).subspan(kReservedAt);
  if (std::any_of(reserved.begin(), reserved.end(), [](std::byte b) { return b != std::byte{0}; })) {
    return malformed("PK16", path, "superblock", "reserved bytes are not zero");
  }
  return {};
}

Status check_directory_range(const PareFrame& frame, const InputFile& file) {
  const Checked end = Checked(frame.directory_offset) + frame.directory_bytes;
  if (!end.valid()) return malformed("PK27", file.path(), "trailer.directory", "offset and length wrap");
  if (frame.directory_offset < kSuperblockBytes || end.value() != file.size() - kTrailerBytes ||
      frame.directory_offset % kPartAlignment != 0) {
    return malformed("PK26", file.path(), "trailer.directory",
                     "directory does not lie between payload and trailer",
                     fmt::format("{} + {}", frame.directory_offset, frame.directory_bytes),
                     fmt::format("end at {}", file.size() - kTrailerBytes));
  }
  if (frame.directory_bytes > limits::kHeaderBytes) {
    return over_cap("PK33", file.path(), "directory", "directory is larger than the limit",
                    frame.directory_bytes, limits::kHeaderBytes);
  }
  return {};
}

}  // namespace

Superblock superblock_bytes() {
  Superblock superblock{};
  std::memcpy(superblock.data(), kPareMagic.data(), kPareMagic.size());
  set(superblock, kVersionAt, kPareVersion);
  return superblock;
}

Trailer trailer_bytes(const PareFrame& frame) {
  Trailer trailer{};
  set(trailer, kOffsetAt, frame.directory_offset);
  set(trailer, kBytesAt, frame.directory_bytes);
  set_sum(trailer, kDirectorySumAt, frame.directory_sum);
  set(trailer, kFileBytesAt, frame.directory_offset + frame.directory_bytes + kTrailerBytes);
  std::memcpy(trailer.data() + kEndMarkAt, kPareMagic.data(), kPareMagic.size());
  set_sum(trailer, kFrameSumAt, frame_sum(superblock_bytes(), trailer));
  return trailer;
}

Result<PareFrame> read_pare_frame(const InputFile& file) {
  const uint64_t smallest = kSuperblockBytes + kTrailerBytes;
  Superblock superblock{};
  const size_t readable = static_cast<size_t>(std::min<uint64_t>(file.size(), kSuperblockBytes));
  PARE_CHECK(file.read_at(0, std::span(superblock).first(readable)));
  if (readable >= kPareMagic.size() && !has_magic(superblock, 0)) {
    return malformed("PK15", file.path(), "magic", "not a .pare file",
                     hex(std::span(superblock).first(kPareMagic.size())),
                     hex(std::as_bytes(std::span(kPareMagic))));
  }
  if (file.size() < smallest) {
    return malformed("PK01", file.path(), "length", "file too short, trailer missing",
                     std::to_string(file.size()), std::to_string(smallest), "need");
  }
  PARE_TRY(const Trailer trailer, read_trailer(file));
  const Hash128 stored = get_sum(trailer, kFrameSumAt), found = frame_sum(superblock, trailer);
  if (stored != found) {
    return malformed("PK16", file.path(), "header", "checksum mismatch of superblock and trailer",
                     found.hex(), stored.hex());
  }
  PARE_CHECK(check_superblock(superblock, file.path()));
  const PareFrame frame{get<uint64_t>(trailer, kOffsetAt), get<uint64_t>(trailer, kBytesAt),
                        get_sum(trailer, kDirectorySumAt)};
  PARE_CHECK(check_directory_range(frame, file));
  return frame;
}

Result<std::string> read_pare_directory_text(const InputFile& file, const PareFrame& frame) {
  std::string text(static_cast<size_t>(frame.directory_bytes), '\0');
  PARE_CHECK(file.read_at(frame.directory_offset, std::as_writable_bytes(std::span(text))));
  const Hash128 found = xxh3_128(std::string_view(text));
  if (found == frame.directory_sum) return text;
  return malformed("PK02", file.path(), "directory", "checksum mismatch", found.hex(),
                   frame.directory_sum.hex());
}

}  // namespace pare
