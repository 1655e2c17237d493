#include "cli/line_reader.h"

#include <fmt/core.h>

#include <algorithm>

#include "cli/text_data.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

constexpr uint64_t kReadBytes = 1 << 20;

Error line_error(Exit exit, const char* rule, const std::string& path, std::string where, std::string what) {
  return Error{.exit = exit,
               .rule = rule,
               .path = path,
               .where = std::move(where),
               .what = std::move(what),
               .got = {},
               .limit = {}};
}

}  // namespace

Result<LineReader> LineReader::open(const std::string& path) {
  PARE_TRY(InputFile file, InputFile::open(path));
  LineReader reader(std::move(file));
  PARE_CHECK(reader.fill());
  PARE_CHECK(refuse_binary(reader.buffer_, path));
  if (reader.buffer_.starts_with("\xef\xbb\xbf")) reader.used_ = 3;
  return reader;
}

Status LineReader::fill() {
  buffer_.erase(0, used_);
  used_ = 0;
  const uint64_t count = std::min(kReadBytes, file_.size() - offset_);
  const size_t before = buffer_.size();
  buffer_.resize(before + count);
  PARE_CHECK(file_.read_at(offset_, std::as_writable_bytes(std::span(buffer_.data() + before, count))));
  offset_ += count;
  return offset_ == file_.size() ? file_.check_unchanged() : Status();
}

Status LineReader::check(std::string_view line) const {
  const size_t bad = first_invalid_utf8(line);
  if (bad != 0) {
    return line_error(Exit::malformed, "DT04", file_.path(), fmt::format("{}:{}", number_, bad),
                      "not valid UTF-8");
  }
  if (const size_t nul = line.find('\0'); nul != std::string_view::npos) {
    return line_error(Exit::malformed, "DT04", file_.path(), fmt::format("{}:{}", number_, nul + 1),
                      "NUL byte in text");
  }
  return {};
}

Result<bool> LineReader::next(std::string& line) {
  size_t searched = used_;
  size_t end = buffer_.find('\n', searched);
  while (end == std::string::npos && offset_ < file_.size()) {
    if (buffer_.size() - used_ > limits::kTextLineBytes) break;
    searched = buffer_.size() - used_;
    PARE_CHECK(fill());
    end = buffer_.find('\n', searched);
  }
  const bool is_last = end == std::string::npos;
  if (is_last && offset_ == file_.size() && used_ == buffer_.size()) return false;
  ++number_;
  if (is_last) end = buffer_.size();
  if (end - used_ > limits::kTextLineBytes) {
    Error error =
        line_error(Exit::resource, "DT05", file_.path(), fmt::format("{}", number_), "line too long");
    error.got = fmt::format("{} or more", end - used_);
    error.limit = fmt::format("{}", limits::kTextLineBytes);
    return error;
  }
  line.assign(buffer_, used_, end - used_);
  used_ = std::min(end + 1, buffer_.size());
  if (line.ends_with('\r')) line.pop_back();
  PARE_CHECK(check(line));
  return true;
}

}  // namespace pare::cli
