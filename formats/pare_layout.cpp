#include "formats/pare_layout.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/core/checked.h"
#include "engine/core/text.h"
#include "formats/fault.h"

namespace pare {
namespace {

Status check_range(const PlacedPart& placed, uint64_t payload_end, std::string_view path) {
  const ParePart& part = *placed.part;
  const Checked end = Checked(part.offset) + part.bytes;
  if (!end.valid())
    return malformed("PK27", path, placed.owner, "offset and length wrap",
                     fmt::format("{} + {}", part.offset, part.bytes));
  if (part.offset < kSuperblockBytes || end.value() > payload_end) {
    return malformed("PK26", path, placed.owner, "range leaves the payload",
                     fmt::format("{} to {}", part.offset, end.value()),
                     fmt::format("{} to {}", kSuperblockBytes, payload_end), "limit");
  }
  if (part.offset % kPartAlignment != 0) {
    return malformed("PK25", path, placed.owner, "offset is not a multiple of 64",
                     std::to_string(part.offset));
  }
  return {};
}

// By place, to tell an overlap (two names) from a gap and from a wrong order.
Status check_neighbours(std::vector<PlacedPart> parts, uint64_t payload_end, std::string_view path) {
  std::stable_sort(parts.begin(), parts.end(), [](const PlacedPart& a, const PlacedPart& b) {
    return a.part->offset != b.part->offset ? a.part->offset < b.part->offset : a.part->bytes < b.part->bytes;
  });
  uint64_t end = kSuperblockBytes;
  const PlacedPart* previous = nullptr;
  for (const PlacedPart& placed : parts) {
    const uint64_t begin = placed.part->offset;
    if (begin < end) {
      return malformed("PK24", path, fmt::format("{} and {}", previous->owner, placed.owner),
                       "ranges overlap", fmt::format("offset {}", begin), std::to_string(end));
    }
    const uint64_t expected = Checked(end).aligned_up(kPartAlignment).value();
    if (begin != expected) {
      return malformed("PK25", path, placed.owner, "hole before the part", fmt::format("offset {}", begin),
                       std::to_string(expected));
    }
    end = begin + placed.part->bytes;
    previous = &placed;
  }
  if (const uint64_t expected = Checked(end).aligned_up(kPartAlignment).value(); expected != payload_end) {
    return malformed("PK25", path, "directory", "hole before the directory",
                     fmt::format("offset {}", payload_end), std::to_string(expected));
  }
  return {};
}

}  // namespace

std::vector<PlacedPart> placed_parts(const PareDirectory& directory) {
  std::vector<PlacedPart> parts;
  for (const PareBlob& asset : directory.assets) parts.push_back({"asset " + quote(asset.name), &asset.part});
  for (const PareTensor& tensor : directory.tensors) {
    for (const ParePart& part : tensor.parts)
      parts.push_back({"tensor " + quote(tensor.name) + "." + sanitize(part.role), &part});
  }
  for (const PareBlob& section : directory.sections)
    parts.push_back({"section " + quote(section.name), &section.part});
  return parts;
}

Status check_layout(const PareDirectory& directory, uint64_t payload_end, std::string_view path) {
  const std::vector<PlacedPart> parts = placed_parts(directory);
  for (const PlacedPart& placed : parts) PARE_CHECK(check_range(placed, payload_end, path));
  PARE_CHECK(check_neighbours(parts, payload_end, path));
  for (size_t i = 1; i < parts.size(); ++i) {
    if (parts[i].part->offset >= parts[i - 1].part->offset) continue;
    return malformed("PK25", path, parts[i].owner, "ranges are not in the order of the directory",
                     std::to_string(parts[i].part->offset),
                     fmt::format("after {}", parts[i - 1].part->offset));
  }
  return {};
}

}  // namespace pare
