// engine/core/spill_file.h: scratch space on disk for what does not fit the memory ceiling.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "engine/core/result.h"

namespace pare {

// A file without a name: it is gone with the process, however that ends.
class SpillFile {
 public:
  // In `folder`, which exists. Exit 5.
  static Result<SpillFile> create(const std::string& folder);
  SpillFile(SpillFile&&) noexcept;
  SpillFile& operator=(SpillFile&&) noexcept;
  ~SpillFile();

  Status write(uint64_t offset, std::span<const std::byte> bytes);  // exit 5
  Status read(uint64_t offset, std::span<std::byte> out) const;     // exit 5

 private:
  struct State;
  explicit SpillFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pare
