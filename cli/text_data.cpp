#include "cli/text_data.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "engine/core/file.h"
#include "engine/core/json.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

// Largest text taken whole; perplexity and windows need all of it at once.
constexpr uint64_t kTextBytes = 4ull << 30;

Error data_error(Exit exit, const char* rule, const std::string& path, std::string where, std::string what) {
  return Error{.exit = exit,
               .rule = rule,
               .path = path,
               .where = std::move(where),
               .what = std::move(what),
               .got = {},
               .limit = {}};
}

struct Magic {
  std::string_view bytes;
  const char* format;
};
constexpr std::array kRefused{Magic{"\x1f\x8b", "gzip"},
                              Magic{"PK\x03\x04", "zip"},
                              Magic{"PAR1", "parquet"},
                              Magic{"\x28\xb5\x2f\xfd", "zstd"},
                              Magic{"BZh", "bzip2"},
                              Magic{"\xfd"
                                    "7zXZ",
                                    "xz"}};

// "line:byte" of an offset, counted from 1.
std::string line_and_byte(std::string_view text, size_t offset) {
  size_t line = 1, start = 0;
  for (size_t i = 0; i < offset; ++i)
    if (text[i] == '\n') ++line, start = i + 1;
  return std::to_string(line) + ":" + std::to_string(offset - start + 1);
}

Status check_encoding(std::string_view text, const std::string& path) {
  if (const size_t bad = first_invalid_utf8(text)) {
    return data_error(Exit::malformed, "DT04", path, line_and_byte(text, bad - 1), "not valid UTF-8");
  }
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return data_error(Exit::malformed, "DT04", path, line_and_byte(text, nul), "NUL byte in text");
  }
  return {};
}

Result<std::string> read_stdin() {
  std::string text;
  std::array<char, 65536> buffer;
  for (;;) {
    const ssize_t count = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (count == 0) return text;
    if (count < 0) {
      if (errno == EINTR) continue;
      return data_error(Exit::io, "DT10", "stdin", {}, std::strerror(errno));
    }
    text.append(buffer.data(), size_t(count));
  }
}

Result<std::string> document_of_line(std::string_view line, size_t number, const std::string& path) {
  auto json = parse_json(line, path, {.max_bytes = limits::kTextLineBytes}, "DT02");
  if (!json) {
    Error error = json.error();
    error.where = std::to_string(number) + ":" + error.where;
    return error;
  }
  const Json* text = json->find("text");
  if (text != nullptr && text->is_string()) {
    if (text->as_string().find('\0') == std::string::npos) return text->as_string();
    return data_error(Exit::malformed, "DT04", path, std::to_string(number) + ":text", "NUL byte in text");
  }
  Error error = data_error(Exit::malformed, "DT03", path, std::to_string(number) + ":text",
                           text == nullptr ? "missing" : "not a string");
  if (text != nullptr) error.got = text->kind_name();
  return error;
}

Result<std::vector<std::string>> jsonl_documents(std::string_view text, const std::string& path) {
  std::vector<std::string> documents;
  size_t number = 0;
  while (!text.empty()) {
    ++number;
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(text.size(), end + 1));
    if (line.size() > limits::kTextLineBytes) {
      Error error = data_error(Exit::resource, "DT05", path, std::to_string(number), "line too long");
      error.got = std::to_string(line.size());
      error.limit = std::to_string(limits::kTextLineBytes);
      return error;
    }
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
    if (line.empty()) continue;
    PARE_TRY(std::string document, document_of_line(line, number, path));
    documents.push_back(std::move(document));
  }
  return documents;
}

}  // namespace

Status refuse_binary(std::string_view bytes, const std::string& path) {
  for (const Magic& magic : kRefused) {
    if (!bytes.starts_with(magic.bytes)) continue;
    Error error =
        data_error(Exit::unsupported, "DT08", path, {}, "not a text file; unpack or convert it first");
    error.got = magic.format;
    return error;
  }
  return {};
}

std::string TextData::joined() const {
  std::string text;
  for (size_t i = 0; i < documents.size(); ++i) text += (i == 0 ? "" : "\n\n") + documents[i];
  return text;
}

Result<TextData> read_text_data(const std::string& path) {
  const std::string shown = path == "-" ? "stdin" : path;
  std::string text;
  if (path == "-") {
    PARE_TRY(text, read_stdin());
  } else {
    PARE_TRY(text, read_text_file(path, kTextBytes));
  }
  PARE_CHECK(refuse_binary(text, shown));
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
  PARE_CHECK(check_encoding(text, shown));
  TextData data;
  data.has_unk_marker = text.find("<unk>") != std::string::npos;
  if (path.ends_with(".jsonl")) {
    PARE_TRY(data.documents, jsonl_documents(text, shown));
  } else if (text.find_first_not_of(" \t\r\n") != std::string::npos) {
    data.documents.push_back(std::move(text));
  }
  if (data.documents.empty()) {
    Error error = data_error(Exit::malformed, "DT01", shown, {}, "no usable text");
    error.got = "0 samples";
    return error;
  }
  return data;
}

}  // namespace pare::cli
