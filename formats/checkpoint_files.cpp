#include "formats/checkpoint_files.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/file_kind.h"

namespace pare {
namespace {

constexpr size_t kNamesShown = 8;

std::string join(const std::string& folder, const std::string& name) {
  return folder.ends_with('/') ? folder + name : folder + "/" + name;
}

std::string list_names(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kNamesShown); ++i)
    text += (i > 0 ? ", " : "") + quote(names[i]);
  if (names.size() > kNamesShown) text += fmt::format(" and {} more", names.size() - kNamesShown);
  return text;
}

Result<CheckpointFile> open_one(const std::string& folder, const std::string& name,
                                const OpenOptions& options) {
  PARE_TRY(InputFile input, InputFile::open_below(folder, name, options.follow_symlinks));
  PARE_TRY(auto file, open_weights(std::move(input)));
  return CheckpointFile{name, std::move(file)};
}

// No weights in the folder: says what is there instead, by content.
Error no_weights(const std::string& folder, const OpenOptions& options) {
  const auto names = list_directory(folder);
  if (!names) return names.error();
  std::vector<std::string> candidates;
  for (const std::string& name : *names) {
    const auto input = InputFile::open_below(folder, name, options.follow_symlinks);
    if (!input) continue;
    const auto detected = detect_file(*input);
    if (!detected) continue;
    if (detected->kind == FileKind::safetensors) candidates.push_back(name);
    if (detected->kind == FileKind::gguf) {
      return malformed("IX17", folder, quote(name), "a GGUF model is one file; name the file, not its folder");
    }
    if (detected->kind == FileKind::refused && detected->refusal.exit == Exit::unsupported)
      return detected->refusal;
  }
  if (!candidates.empty()) {
    return malformed("IX17", folder, "", "no model.safetensors and no index; --weights chooses a file",
                     list_names(candidates));
  }
  return malformed("IX17", folder, kSingleWeights, "directory has no weights");
}

Result<std::vector<CheckpointFile>> open_shards(const std::string& folder, const ShardIndex& index,
                                                const std::string& index_path, const OpenOptions& options) {
  std::vector<CheckpointFile> files;
  std::vector<std::string> missing;
  for (const std::string& shard : index.shards) {
    auto input = InputFile::open_below(folder, shard, options.follow_symlinks);
    if (!input) {
      Error error = std::move(input).error();
      const bool judged_by_name = error.path == folder;
      if (judged_by_name) {
        error.path = index_path;
        error.where = index.entry_of(shard);
        return error;
      }
      if (error.exit != Exit::io || path_exists(join(folder, shard)) || error.rule == "IX04") return error;
      missing.push_back(shard);
      continue;
    }
    if (!missing.empty()) continue;  // the answer is known; only the number is not
    PARE_TRY(auto file, open_weights(std::move(*input)));
    files.push_back({shard, std::move(file)});
  }
  if (missing.empty()) return files;
  return fault(Exit::io, "IX07", folder, list_names(missing),
               fmt::format("{} shards missing; incomplete download?", missing.size()),
               std::to_string(index.shards.size() - missing.size()), std::to_string(index.shards.size()),
               "need");
}

// Index and shards name the same tensors, each once.
Status check_index(const CheckpointFiles& checkpoint, const OpenOptions& options,
                   std::vector<std::string>& unindexed) {
  const ShardIndex& index = *checkpoint.index;
  std::vector<std::pair<std::string_view, const CheckpointFile*>> stored;
  for (const CheckpointFile& file : checkpoint.files) {
    for (const SafetensorsEntry& entry : file.file->entries()) stored.emplace_back(entry.name, &file);
  }
  if (stored.size() > limits::kTensors) {
    return over_cap("ST25", checkpoint.files[0].file->path(), "shards", "tensor count is over the limit",
                    stored.size(), limits::kTensors);
  }
  std::stable_sort(stored.begin(), stored.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 1; i < stored.size(); ++i) {
    if (stored[i].first != stored[i - 1].first) continue;
    return malformed("IX10", stored[i].second->file->path(), quote(stored[i].first),
                     "tensor is in two shards", quote(stored[i].second->name),
                     quote(stored[i - 1].second->name), "first in");
  }
  for (const auto& entry : index.weight_map) {
    // no structured binding: clang 14 cannot capture one
    const std::string &tensor = entry.first, &shard = entry.second;
    const auto found =
        std::lower_bound(stored.begin(), stored.end(), tensor,
                         [](const auto& entry, const std::string& wanted) { return entry.first < wanted; });
    const bool absent = found == stored.end() || found->first != tensor || found->second->name != shard;
    if (absent) {
      const auto file = std::find_if(checkpoint.files.begin(), checkpoint.files.end(),
                                     [&](const auto& f) { return f.name == shard; });
      return malformed("IX08", file->file->path(), quote(tensor), "tensor of the index is not in its shard");
    }
  }
  for (const auto& [tensor, file] : stored) {
    if (index.shard_of(tensor) != nullptr) continue;
    if (!options.allow_unindexed) {
      return malformed("IX09", file->file->path(), quote(tensor),
                       "tensor is not in the index; see --allow-unindexed");
    }
    unindexed.emplace_back(tensor);
  }
  return {};
}

Status check_total_size(const CheckpointFiles& checkpoint, const std::string& index_path,
                        const OpenOptions& options, std::vector<std::string>& warnings) {
  if (!checkpoint.index->total_size) return {};
  uint64_t total = 0;
  for (const CheckpointFile& file : checkpoint.files) {
    for (const SafetensorsEntry& entry : file.file->entries()) {
      if (checkpoint.index->shard_of(entry.name) != nullptr) total += entry.bytes();
    }
  }
  if (total == *checkpoint.index->total_size) return {};
  const Error error =
      malformed("IX11", index_path, "metadata.total_size", "differs from the sum of the tensors",
                std::to_string(*checkpoint.index->total_size), std::to_string(total));
  if (options.strict) return error;
  warnings.push_back(format_error(error));
  return {};
}

// Two sets of weights in one folder are the sign of a half-finished copy, unless they hold the same tensors
// (IX15).
Status check_same_contents(const CheckpointFiles& shards, const SafetensorsFile& single,
                           const std::string& folder) {
  const auto ambiguous = [&](std::string where) {
    return malformed("IX15", folder, std::move(where),
                     "model.safetensors and the shards of the index differ, so the weights are ambiguous; "
                     "--weights chooses a file");
  };
  size_t count = 0;
  for (const CheckpointFile& shard : shards.files) {
    for (const SafetensorsEntry& entry : shard.file->entries()) {
      const SafetensorsEntry* other = single.find(entry.name);
      if (other == nullptr || other->dtype != entry.dtype || other->shape != entry.shape)
        return ambiguous(quote(entry.name));
      const auto a = shard.file->bytes(entry), b = single.bytes(*other);
      const bool equal = a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0;
      shard.file->release(entry);
      single.release(*other);
      if (!equal) return ambiguous(quote(entry.name));
      ++count;
    }
  }
  return count == single.entries().size() ? Status() : ambiguous("");
}

void warn_of_misaligned(const CheckpointFiles& checkpoint, std::vector<std::string>& warnings) {
  for (const CheckpointFile& file : checkpoint.files) {
    const uint64_t begin = file.file->header().data_begin;
    int64_t count = 0;
    for (const SafetensorsEntry& entry : file.file->entries()) {
      const auto width = static_cast<uint64_t>(std::max<int64_t>(dtype_bytes(entry.dtype), 1));
      count += entry.bytes() > 0 && (begin + entry.begin) % width != 0 ? 1 : 0;
    }
    if (count > 0) {
      warnings.push_back(
          fmt::format("{}: {} tensors are not aligned to their elements and are copied when read",
                      file.file->path(), count));
    }
  }
}

Result<CheckpointFiles> open_by_index(const std::string& folder, const OpenOptions& options) {
  CheckpointFiles checkpoint;
  PARE_TRY(const InputFile input, InputFile::open_below(folder, kShardIndex, options.follow_symlinks));
  PARE_TRY(const std::string text, input.read_all(limits::kConfigBytes));
  PARE_TRY(checkpoint.index, parse_shard_index(text, input.path()));
  PARE_TRY(checkpoint.files, open_shards(folder, *checkpoint.index, input.path(), options));
  if (checkpoint.files.empty())
    return malformed("IX17", input.path(), "weight_map", "index names no weights");
  std::vector<std::string> unindexed;
  PARE_CHECK(check_index(checkpoint, options, unindexed));
  PARE_CHECK(check_total_size(checkpoint, input.path(), options, checkpoint.warnings));
  if (!unindexed.empty()) {
    checkpoint.warnings.push_back(fmt::format("{}: {} tensors that the index does not name are ignored: {}",
                                              folder, unindexed.size(), list_names(unindexed)));
  }
  const bool single_is_shard = checkpoint.files.size() == 1 && checkpoint.files[0].name == kSingleWeights;
  if (!single_is_shard && path_exists(join(folder, kSingleWeights))) {
    PARE_TRY(const CheckpointFile single, open_one(folder, kSingleWeights, options));
    PARE_CHECK(check_same_contents(checkpoint, *single.file, folder));
  }
  return checkpoint;
}

}  // namespace

Result<std::shared_ptr<const SafetensorsFile>> open_weights(InputFile input) {
  PARE_CHECK(refuse_other_formats(input));
  return SafetensorsFile::open(std::move(input));
}

Result<CheckpointFiles> open_checkpoint(const std::string& folder, const OpenOptions& options) {
  CheckpointFiles checkpoint;
  if (!options.weights_file.empty()) {
    PARE_TRY(CheckpointFile file, open_one(folder, options.weights_file, options));
    checkpoint.files.push_back(std::move(file));
  } else if (path_exists(join(folder, kShardIndex))) {
    PARE_TRY(checkpoint, open_by_index(folder, options));
  } else if (path_exists(join(folder, kSingleWeights))) {
    PARE_TRY(CheckpointFile file, open_one(folder, kSingleWeights, options));
    checkpoint.files.push_back(std::move(file));
  } else {
    return no_weights(folder, options);
  }
  warn_of_misaligned(checkpoint, checkpoint.warnings);
  return checkpoint;
}

}  // namespace pare
