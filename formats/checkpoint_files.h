// formats/checkpoint_files.h: which safetensors files make up a model folder, opened and checked; internal to
// formats.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/open_model.h"
#include "formats/safetensors.h"
#include "formats/shard_index.h"

namespace pare {

struct CheckpointFile {
  std::string name;  // inside the folder
  std::shared_ptr<const SafetensorsFile> file;
};

struct CheckpointFiles {
  std::vector<CheckpointFile> files;  // in shard order
  std::optional<ShardIndex> index;    // when the folder has one and it is used
  std::vector<std::string> warnings;  // to be logged once everything has passed
};

// model.safetensors, or the shards that the index names, or `options.weights_file`. Rules IX01 to IX20; a
// folder whose weights are in a format that pare refuses says so (RF).
Result<CheckpointFiles> open_checkpoint(const std::string& folder, const OpenOptions& options);

// Opens one file that should be safetensors; a file recognised as something else is refused as that (RF01 to
// RF07).
Result<std::shared_ptr<const SafetensorsFile>> open_weights(InputFile input);

}  // namespace pare
