#include "engine/core/sealed_json.h"

#include "engine/core/hash.h"
#include "engine/core/limits.h"

namespace pare {
namespace {

constexpr std::string_view kBegin = R"({"xxh3_128":")";
constexpr std::string_view kMiddle = R"(","body":)";
constexpr std::string_view kEnd = "}\n";
constexpr size_t kHexDigits = 32;

Error damaged(const std::string& path, const char* what, std::string got = {}, std::string expected = {}) {
  return Error{Exit::malformed, "", path, "", what, std::move(got), std::move(expected), "expected"};
}

}  // namespace

std::string seal_json(const Json& body) {
  const std::string text = body.dump();
  std::string out(kBegin);
  out += xxh3_128(text).hex();
  out += kMiddle;
  out += text;
  out += kEnd;
  return out;
}

Result<Json> unseal_json(std::string_view text, const std::string& path) {
  constexpr size_t kAround = kBegin.size() + kHexDigits + kMiddle.size() + kEnd.size();
  if (text.size() < kAround || !text.starts_with(kBegin) || !text.ends_with(kEnd) ||
      text.substr(kBegin.size() + kHexDigits, kMiddle.size()) != kMiddle) {
    return damaged(path, "not a whole file of a job");
  }
  const auto expected = Hash128::from_hex(text.substr(kBegin.size(), kHexDigits));
  if (!expected) return damaged(path, "not a whole file of a job");
  const std::string_view body = text.substr(kAround - kEnd.size(), text.size() - kAround);
  const Hash128 got = xxh3_128(body);
  if (got != *expected) return damaged(path, "checksum mismatch", got.hex(), expected->hex());
  return parse_json(body, path, {.max_bytes = limits::kHeaderBytes});
}

}  // namespace pare
