// formats/shard_writer.h: safetensors shards of a checkpoint whose tensors are not known beforehand; internal
// to formats.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "formats/safetensors.h"
#include "formats/shard_index.h"
#include "formats/stored_manifest.h"

namespace pare {

// The header of a safetensors file comes first, but which tensors a shard holds is known last. So data is
// written behind a reserved stretch, and the header goes into it at the end, padded with spaces as the format
// allows. If the header has outgrown the stretch, or a tensor would not be aligned to its element, the shard
// is copied once, in reference order, behind a header of the right size. At no time is there more than one
// tensor in memory.
class ShardWriter {
 public:
  // `expected_bytes` of the whole checkpoint (0: unknown) decides how much is reserved.
  ShardWriter(DirWriter& folder, uint64_t expected_bytes, uint64_t max_shard_bytes);

  // A contiguous tensor. Starts a new shard when the tensor does not fit into the current one any more.
  Status put(std::string_view name, const Tensor& tensor);
  // Closes the last shard and gives all of them their final names. At least one shard exists afterwards.
  Status finish();

  const std::vector<FileSum>& files() const { return files_; }  // after finish()
  const ShardIndex& index() const { return index_; }            // after finish()
  uint64_t bytes_written() const { return bytes_written_; }

 private:
  struct Placed {
    SafetensorsSpec spec;
    uint64_t offset;  // of the data, from the start of the file
    Hash128 sum;
  };
  Status open_shard();
  Status close_shard();
  Result<FileWriter> rewritten(std::vector<Placed>& tensors);
  Result<FileSum> check_written(const FileWriter& writer, const std::vector<Placed>& tensors) const;
  std::string temporary_name() const;

  DirWriter& folder_;
  uint64_t reserved_bytes_, max_shard_bytes_;
  std::optional<FileWriter> writer_;
  std::vector<Placed> tensors_;  // of the current shard
  std::vector<FileSum> files_;
  std::vector<std::vector<std::string>> names_;  // tensors of each closed shard
  ShardIndex index_;
  uint64_t data_bytes_ = 0, bytes_written_ = 0;
};

}  // namespace pare
