// cli/line_reader.h: a text file line by line, of any size, with everything checked that can be wrong with a
// line.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/file.h"
#include "engine/core/result.h"

namespace pare::cli {

class LineReader {
 public:
  // Exit 5 unreadable, 4 (DT08) a compressed or columnar file.
  static Result<LineReader> open(const std::string& path);

  // The next line without its end (CR included); false at the end of the file. Blank lines count and are
  // given. Errors: 3 (DT04) with line:byte, 6 (DT05) a line over the cap, 5 (also when the file changed
  // meanwhile).
  Result<bool> next(std::string& line);
  int64_t number() const { return number_; }  // of the line that next() gave, from 1

 private:
  explicit LineReader(InputFile file) : file_(std::move(file)) {}
  Status fill();
  Status check(std::string_view line) const;
  InputFile file_;
  std::string buffer_;   // read and not yet given
  size_t used_ = 0;      // of buffer_
  uint64_t offset_ = 0;  // of the file, behind buffer_
  int64_t number_ = 0;
};

}  // namespace pare::cli
