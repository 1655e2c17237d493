// engine/core/file_writer_state.h: what a FileWriter holds; shared with DirWriter, internal to core.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/core/output_target.h"

namespace pare {

struct FileWriter::State {
  OutputTarget target;
  OutputLock lock;  // empty inside a folder that is not yet published: its writer holds the lock
  bool inside_unpublished = false;
  bool force = false;
  io::Descriptor file;
  std::string temporary_name;  // empty once it is gone
  std::string temporary_path;
  uint64_t reserved_bytes = 0;
  uint64_t flushed_bytes = 0;     // given to the kernel
  std::vector<std::byte> buffer;  // what follows them
  std::optional<Error> failure;   // the first one

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State();  // removes an unpublished temporary

  Status fail(std::string_view action);  // takes errno
  Status write_through(std::span<const std::byte> bytes);
  Status flush();
  Status move_to_final_name();
};

// The rename itself must survive a power cut.
Status sync_folder(const OutputTarget& target);

}  // namespace pare
