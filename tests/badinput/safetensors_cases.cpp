// Rows ST01 to ST26.
#include <filesystem>

#include "tests/badinput/bad_case.h"
#include "tests/formats/tiny_model.h"

namespace pare::test {
namespace {

BadCase raw(const char* id, const char* name, std::string bytes, Exit exit, std::vector<std::string> words) {
  return {id, name,
          [bytes](const std::string& folder) {
            return model_folder(folder, {{"model.safetensors", bytes}});
          },
          exit, std::move(words)};
}

BadCase with_header(const char* id, const char* name, const std::string& header,
                    std::vector<std::string> words, Exit exit = Exit::malformed, size_t data = 8) {
  return raw(id, name, safetensors_bytes(header, std::string(data, '\0')), exit, std::move(words));
}

// An entry of a header with the rest being right.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return '"' + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}";
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{" + entry("w", dtype, shape, offsets) + "}";
}

std::string length_only(uint64_t length, size_t rest) {
  std::string bytes = safetensors_bytes("", "");
  for (int i = 0; i < 8; ++i) bytes[size_t(i)] = char(length >> (8 * i));
  return bytes + std::string(rest, ' ');
}

BadCase sparse_large() {
  return {"ST06",
          "header over the cap",
          [](const std::string& folder) {
            model_folder(folder, {{"model.safetensors", length_only(100'000'001, 0) + "{"}});
            std::filesystem::resize_file(folder + "/model.safetensors", 200'000'000);
            return folder;
          },
          Exit::resource,
          {"header length", "100000000"}};
}

void add_lengths(std::vector<BadCase>& cases) {
  cases.push_back(
      raw("ST01", "no bytes", "", Exit::malformed, {"header length", "file too short", "got 0", "need 8"}));
  for (size_t n = 1; n < 8; ++n) {
    cases.push_back(raw("ST02", ("bytes " + std::to_string(n)).c_str(), std::string(n, '\1'), Exit::malformed,
                        {"header length", "file too short"}));
  }
  cases.push_back(raw("ST03", "length 0", length_only(0, 16), Exit::malformed, {"header length", "got 0"}));
  cases.push_back(raw("ST04", "length past the end", length_only(17, 16), Exit::malformed,
                      {"header length", "got 17", "16"}));
  cases.push_back(
      raw("ST05", "length 2^63", length_only(1ull << 63, 16), Exit::malformed, {"header length"}));
  cases.push_back(raw("ST05", "length 2^64-1", length_only(~0ull, 16), Exit::malformed,
                      {"header length", "18446744073709551615"}));
  cases.push_back(sparse_large());
}

void add_syntax(std::vector<BadCase>& cases) {
  cases.push_back(with_header("ST07", "array", "[]", {"byte 8"}));
  cases.push_back(with_header("ST07", "space before", " {}", {"byte 8"}));
  cases.push_back(with_header("ST08", "invalid UTF-8", "{\"\xff\":1}", {"byte 10"}));
  cases.push_back(with_header("ST08", "lone surrogate", R"({"\ud800":1})", {"byte 10"}));
  cases.push_back(with_header("ST08", "wrong pair", R"({"\ud800\u0041":1})", {"byte 10"}));
  cases.push_back(with_header("ST08", "byte order mark", "\xef\xbb\xbf{}", {"byte 8"}));
  cases.push_back(with_header("ST09", "truncated", R"({"w":{"dtype":"F32")", {"byte 27"}));
  cases.push_back(with_header("ST09", "newline after the brace", "{}\n", {"byte 10"}));
  cases.push_back(with_header("ST09", "second object", "{}{}", {"byte 10"}));
  cases.push_back(with_header("ST09", "control character in a name", "{\"a\nb\":1}", {"byte 11"}));
  cases.push_back(with_header("ST09", "trailing comma",
                              R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},})", {"byte"}));
  cases.push_back(with_header("ST10", "deep", "{\"w\":" + std::string(100'000, '['), {"depth", "64"}));
  cases.push_back(with_header(
      "ST11", "twice",
      "{" + entry("w", "F32", "[1]", "[0,4]") + "," + entry("w", "F32", "[1]", "[4,8]") + "}", {"\"w\""}));
  cases.push_back(with_header(
      "ST11", "twice after decoding",
      "{" + entry("w", "F32", "[1]", "[0,4]") + "," + entry("\\u0077", "F32", "[1]", "[4,8]") + "}",
      {"\"w\""}));
  cases.push_back(with_header("ST12", "dtype",
                              R"({"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                              {"\"w\".dtype"}));
  cases.push_back(with_header("ST12", "shape",
                              R"({"w":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})",
                              {"\"w\".shape"}));
  cases.push_back(
      with_header("ST12", "data_offsets",
                  R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"data_offsets":[0,8]}})",
                  {"\"w\".data_offsets"}));
  cases.push_back(
      with_header("ST12", "metadata", R"({"__metadata__":{},"__metadata__":{}})", {"__metadata__"}));
  cases.push_back(
      with_header("ST12", "metadata key", R"({"__metadata__":{"k":"1","k":"2"}})", {"__metadata__.\"k\""}));
  cases.push_back(with_header("ST13", "missing dtype", R"({"w":{"shape":[2],"data_offsets":[0,8]}})",
                              {"\"w\".dtype", "missing"}));
  cases.push_back(with_header("ST13", "missing offsets", R"({"w":{"dtype":"F32","shape":[2]}})",
                              {"\"w\".data_offsets", "missing"}));
  cases.push_back(with_header("ST13", "unknown",
                              R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})",
                              {"\"w\".\"x\"", "unknown"}));
  cases.push_back(with_header("ST13", "number for an entry", R"({"w":1})", {"\"w\""}));
  cases.push_back(with_header("ST14", "unknown type", one("F12", "[2]", "[0,8]"), {"\"w\".dtype", "F12"},
                              Exit::unsupported));
  cases.push_back(with_header("ST15", "number", R"({"__metadata__":{"k":1}})", {"__metadata__.\"k\""}));
  cases.push_back(with_header("ST15", "object", R"({"__metadata__":{"k":{}}})", {"__metadata__.\"k\""}));
}

void add_shapes(std::vector<BadCase>& cases) {
  for (const char* extent : {"-1", "1.5", "1e3", "\"4\"", "18446744073709551616", "04", "null", "[4]"}) {
    cases.push_back(with_header("ST16", extent, one("F32", "[2," + std::string(extent) + "]", "[0,8]"),
                                {"\"w\".shape[1]", "got"}));
  }
  cases.push_back(with_header("ST17", "2^32 x 2^32", one("F32", "[4294967296,4294967296]", "[0,8]"),
                              {"\"w\".shape", "product overflows"}));
  cases.push_back(with_header("ST17", "2^31 three times",
                              one("U8", "[2147483648,2147483648,2147483648]", "[0,8]"),
                              {"\"w\".shape", "product overflows"}));
  cases.push_back(with_header("ST17", "with a zero", one("U8", "[4294967296,0,4294967296]", "[0,0]"),
                              {"\"w\".shape", "product overflows"}));
  cases.push_back(with_header("ST17", "bits", one("F64", "[281474976710655,32767]", "[0,8]"),
                              {"\"w\".shape", "product overflows"}));
  cases.push_back(with_header("ST17", "2^48", one("U8", "[281474976710656]", "[0,8]"),
                              {"\"w\".shape[0]", "281474976710656"}));
  cases.push_back(with_header("ST18", "rank 9", one("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]"),
                              {"\"w\".shape", "got 9", "limit 8"}, Exit::unsupported));
  cases.push_back(
      with_header("ST19", "too few bytes", one("F32", "[4]", "[0,8]"), {"\"w\"", "got 8", "expected 16"}));
  cases.push_back(with_header("ST20", "begin after end", one("F32", "[2]", "[8,0]"), {"\"w\".data_offsets"}));
  cases.push_back(
      with_header("ST20", "one offset", one("F32", "[2]", "[8]"), {"\"w\".data_offsets", "got 1"}));
  cases.push_back(
      with_header("ST20", "three offsets", one("F32", "[2]", "[0,8,9]"), {"\"w\".data_offsets", "got 3"}));
  cases.push_back(with_header("ST20", "negative", one("F32", "[2]", "[-8,0]"), {"\"w\".data_offsets", "-8"}));
  cases.push_back(
      with_header("ST21", "overlap",
                  "{" + entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "F32", "[1]", "[4,8]") + "}",
                  {"\"a\"", "\"b\"", "overlap"}));
  cases.push_back(with_header(
      "ST22", "hole", "{" + entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[4]", "[4,8]") + "}",
      {"\"b\"", "gap of 2 bytes"}));
  cases.push_back(with_header("ST22", "first not 0", one("U8", "[4]", "[4,8]"), {"\"w\"", "gap of 4 bytes"}));
  cases.push_back(with_header("ST23", "extra", one("F32", "[1]", "[0,4]"), {"4 extra bytes"}));
  cases.push_back(with_header("ST23", "extra without tensors", "{}", {"8 extra bytes"}));
  cases.push_back(with_header("ST23", "truncated", one("F32", "[3]", "[0,12]"), {"4 bytes missing"}));
  cases.push_back(with_header("ST24", "F4", one("F4", "[15]", "[0,8]"), {"\"w\"", "byte"}));
  cases.push_back(with_header("ST24", "F6", one("F6_E2M3", "[3]", "[0,3]"), {"\"w\"", "byte"}));
  std::string many = "{";
  for (int i = 0; i < 1'000'002; ++i) many += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":{}";
  cases.push_back(
      with_header("ST25", "million and two", many + "}", {"tensor count", "1000000"}, Exit::resource));
}

void add_names(std::vector<BadCase>& cases) {
  cases.push_back(
      with_header("ST26", "zero and scalar",
                  "{" + entry("a", "F64", "[]", "[0,8]") + "," + entry("b", "F32", "[3,0]", "[8,8]") + "}",
                  {}, Exit::ok));
  cases.push_back(with_header("ST26", "no tensors", "{}   ", {}, Exit::ok, 0));
  for (const auto& [name, text] :
       std::vector<std::pair<const char*, std::string>>{{"empty", ""},
                                                        {"NUL", "a\\u0000b"},
                                                        {"escape", "a\\u001b[2J"},
                                                        {"climbs", "../../etc/x"},
                                                        {"C1", "a\\u009bm"},
                                                        {"long", std::string(513, 'n')}}) {
    cases.push_back(with_header("ST26", name, "{" + entry(text, "F32", "[2]", "[0,8]") + "}", {"tensor"}));
  }
}

}  // namespace

std::vector<BadCase> safetensors_cases() {
  std::vector<BadCase> cases;
  add_lengths(cases);
  add_syntax(cases);
  add_shapes(cases);
  add_names(cases);
  return cases;
}

}  // namespace pare::test
