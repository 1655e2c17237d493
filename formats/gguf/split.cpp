// The parts of a split GGUF model: NAME-00001-of-00003.gguf and its neighbours.
#include <fmt/core.h>

#include <optional>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/gguf/metadata.h"
#include "formats/gguf/source.h"

namespace pare {
namespace {

struct PartName {
  std::string folder, stem;  // "dir", "NAME"
  int64_t number = 1, count = 1;
  std::string of(int64_t part) const { return fmt::format("{}-{:05}-of-{:05}.gguf", stem, part, count); }
};

// Nothing when the file is not named like a part.
std::optional<PartName> parse_part_name(const std::string& path) {
  constexpr size_t kTail = std::string_view("-00001-of-00003.gguf").size();
  const size_t slash = path.rfind('/');
  PartName part;
  part.folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (name.size() <= kTail || !name.ends_with(".gguf")) return std::nullopt;
  const std::string tail = name.substr(name.size() - kTail);
  const auto number = parse_uint(std::string_view(tail).substr(1, 5));
  const auto count = parse_uint(std::string_view(tail).substr(10, 5));
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || !number || !count) return std::nullopt;
  part.stem = name.substr(0, name.size() - kTail);
  part.number = static_cast<int64_t>(*number);
  part.count = static_cast<int64_t>(*count);
  return part;
}

Error split_error(const GgufFile& file, const char* key, std::string what, int64_t got, int64_t expected) {
  return malformed("GG34", file.path(), key, std::move(what), std::to_string(got), std::to_string(expected));
}

Status check_part(const GgufFile& file, int64_t index, int64_t count) {
  const GgufMetadata metadata(file.header(), file.path());
  for (const auto& [key, expected] : {std::pair{"split.no", index}, {"split.count", count}}) {
    auto value = metadata.integer(key, 0, INT32_MAX);
    if (!value || !*value) return malformed("GG34", file.path(), key, "missing, or not a number");
    if (**value != expected)
      return split_error(file, key, "differs from the name of the file", **value, expected);
  }
  return {};
}

}  // namespace

Result<std::vector<std::shared_ptr<const GgufFile>>> open_gguf_parts(const std::string& path,
                                                                     InputFile input) {
  std::vector<std::shared_ptr<const GgufFile>> files;
  PARE_TRY(auto first, GgufFile::open(std::move(input)));
  files.push_back(std::move(first));
  const GgufMetadata metadata(files[0]->header(), files[0]->path());
  auto declared = metadata.integer("split.count", 0, static_cast<int64_t>(limits::kShards));
  if (!declared) {
    declared.error().rule = "GG34";
    return std::move(declared).error();
  }
  if (declared->value_or(1) <= 1) return files;

  const auto name = parse_part_name(path);
  if (!name)
    return malformed("GG34", path, "split.count", "part of a split model without the name of one",
                     std::to_string(**declared), "NAME-00001-of-NNNNN.gguf");
  if (name->number != 1)
    return malformed("GG34", path, "split.no", "not the first part of a split model; name that one",
                     std::to_string(name->number), "1");
  if (name->count != **declared)
    return split_error(*files[0], "split.count", "differs from the name of the file", **declared,
                       name->count);
  PARE_CHECK(check_part(*files[0], 0, name->count));
  size_t tensors = files[0]->header().tensors.size();
  for (int64_t part = 2; part <= name->count; ++part) {
    auto opened = InputFile::open_below(name->folder, name->of(part), false);
    if (!opened) {
      Error error = std::move(opened).error();
      error.rule = "GG34";
      return error;
    }
    PARE_TRY(auto file, GgufFile::open(*std::move(opened)));
    PARE_CHECK(check_part(*file, part - 1, name->count));
    tensors += file->header().tensors.size();
    files.push_back(std::move(file));
  }
  PARE_TRY(const auto total, metadata.integer("split.tensors.count", 0, INT32_MAX));
  if (total && static_cast<uint64_t>(*total) != tensors)
    return split_error(*files[0], "split.tensors.count", "differs from the tensors of all parts", *total,
                       static_cast<int64_t>(tensors));
  return files;
}

}  // namespace pare
