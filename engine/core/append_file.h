// engine/core/append_file.h: a log that grows under its own name while the program runs, and that others may
// read meanwhile. Everything else is written by FileWriter (file.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "engine/core/result.h"

namespace pare {

class AppendFile {
 public:
  // Opens the file for more records, or makes it. Never through a symlink; exit 5 also for what is no regular
  // file.
  static Result<AppendFile> open(const std::string& path);
  // Makes a file; exit 2 (CL02) when something has this name.
  static Result<AppendFile> create(const std::string& path);
  AppendFile(AppendFile&&) noexcept;
  AppendFile& operator=(AppendFile&&) noexcept;
  ~AppendFile();

  // Adds a record in one write; a short write goes on with the rest. After an error the file may end with a
  // part of the record, and takes no more. Exit 5.
  Status append(std::span<const std::byte> record);
  Status append(std::string_view record) {
    return append(std::as_bytes(std::span(record.data(), record.size())));
  }
  // Drops everything behind the first `bytes`. Exit 5.
  Status truncate(uint64_t bytes);
  // Makes what was appended durable; a failure is final. Exit 5.
  Status sync();

  const std::string& path() const;

 private:
  struct State;
  explicit AppendFile(std::unique_ptr<State> state);
  static Result<AppendFile> adopt(const std::string& path, int flags);
  std::unique_ptr<State> state_;
};

}  // namespace pare
