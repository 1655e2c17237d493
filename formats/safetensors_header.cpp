// formats/safetensors_header.cpp: what a header declares, checked against itself and against the size of the
// file.
#include <fmt/core.h>

#include <algorithm>
#include <numeric>

#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/safetensors.h"
#include "formats/safetensors_parse.h"
#include "formats/tensor_name.h"

namespace pare {
namespace {

constexpr uint64_t kLengthBytes = 8;

// Range and shape of one tensor agree.
Status check_size(const SafetensorsEntry& entry, std::string_view path) {
  const std::string name = quote(entry.name);
  const auto elements = checked_elements(entry.shape.sizes());
  const auto bits = elements ? checked_bits(*elements, entry.dtype) : std::nullopt;
  if (!bits) return malformed("ST17", path, name + ".shape", "product overflows", entry.shape.text());
  if (*bits % 8 != 0) {
    return malformed("ST24", path, name, "tensor does not end on a byte", fmt::format("{} bits", *bits),
                     "a multiple of 8");
  }
  if (entry.bytes() != *bits / 8) {
    return malformed("ST19", path, name + ".data_offsets", "size does not match shape and dtype",
                     std::to_string(entry.bytes()), std::to_string(*bits / 8));
  }
  return {};
}

// Every name once.
Status check_names(const std::vector<SafetensorsEntry>& entries, std::string_view path) {
  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return {};
  return malformed("ST11", path, quote(*twice), "duplicate tensor name");
}

// Entries, by offset, cover the data exactly.
Status check_coverage(const std::vector<SafetensorsEntry>& entries, uint64_t data_bytes,
                      std::string_view path) {
  uint64_t end = 0;
  const SafetensorsEntry* previous = nullptr;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin < end) {
      return malformed("ST21", path,
                       fmt::format("{} and {}.data_offsets", quote(previous->name), quote(entry.name)),
                       "ranges overlap", fmt::format("begin {}", entry.begin), std::to_string(end));
    }
    if (entry.begin > end) {
      return malformed("ST22", path, quote(entry.name) + ".data_offsets",
                       fmt::format("gap of {} bytes before the tensor", entry.begin - end),
                       fmt::format("begin {}", entry.begin), std::to_string(end));
    }
    if (entry.end > data_bytes) {
      return malformed(
          "ST23", path, quote(entry.name) + ".data_offsets",
          fmt::format("data stops before the end of the tensor, {} bytes missing; truncated file?",
                      entries.back().end - data_bytes),
          std::to_string(data_bytes), std::to_string(entry.end), "need");
    }
    end = entry.end;
    previous = &entry;
  }
  if (end != data_bytes) {
    return malformed("ST23", path, "data",
                     fmt::format("{} extra bytes after the last tensor", data_bytes - end),
                     std::to_string(data_bytes), std::to_string(end));
  }
  return {};
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::string_view json, uint64_t file_bytes,
                                                   std::string_view path) {
  PARE_ASSERT(json.size() + kLengthBytes <= file_bytes, "[safetensors] header of {} in {} bytes", json.size(),
              file_bytes);
  PARE_TRY(SafetensorsHeader header, parse_safetensors_json(json, path));
  header.data_begin = kLengthBytes + json.size();
  PARE_CHECK(check_names(header.entries, path));
  for (const SafetensorsEntry& entry : header.entries) PARE_CHECK(check_size(entry, path));
  // Stable, so that tensors without bytes keep the order of the header.
  std::stable_sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  PARE_CHECK(check_coverage(header.entries, file_bytes - header.data_begin, path));
  return header;
}

}  // namespace pare
