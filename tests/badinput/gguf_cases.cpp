// Rows GG01 to GG38.
#include <cmath>
#include <functional>
#include <limits>

#include "engine/models/architecture.h"
#include "tests/badinput/bad_case.h"
#include "tests/badinput/gguf_file.h"
#include "tests/formats/tiny_model.h"

namespace pare::test {
namespace {

constexpr Exit kBad = Exit::malformed;
constexpr Exit kNo = Exit::unsupported;

BadCase bytes_case(const char* id, const char* name, std::function<std::string()> bytes, Exit exit,
                   std::vector<std::string> words) {
  BadCase row{id, name,
              [bytes](const std::string& folder) {
                write_file(folder + "/m.gguf", bytes());
                return folder + "/m.gguf";
              },
              exit, std::move(words)};
  return row;
}

// The small llama, changed.
BadCase changed(const char* id, const char* name, std::function<void(GgufBytes&)> change, Exit exit,
                std::vector<std::string> words, bool keep_offsets = false) {
  return bytes_case(
      id, name,
      [change, keep_offsets] {
        GgufBytes file = GgufBytes::llama();
        change(file);
        return file.assembled(keep_offsets);
      },
      exit, std::move(words));
}

// One more pair in front, as raw bytes.
BadCase with_pair(const char* id, const char* name, const std::string& pair, Exit exit,
                  std::vector<std::string> words) {
  return changed(
      id, name, [pair](GgufBytes& f) { f.pairs.insert(f.pairs.begin(), pair); }, exit, std::move(words));
}

BadCase with_record(const char* id, const char* name, GgufRecord record, Exit exit,
                    std::vector<std::string> words) {
  return changed(
      id, name, [record](GgufBytes& f) { f.records.insert(f.records.begin(), record); }, exit,
      std::move(words));
}

std::string counts(uint64_t tensors, uint64_t pairs) {
  return "GGUF" + raw(uint32_t{3}) + raw(tensors) + raw(pairs) + std::string(64, '\0');
}

std::string array(uint32_t type, uint64_t count, const std::string& bytes = {}) {
  return raw(type) + raw(count) + bytes;
}

void add_header(std::vector<BadCase>& c) {
  c.push_back(bytes_case("GG01", "empty", [] { return std::string(); }, kBad, {"magic", "too short"}));
  c.push_back(
      bytes_case("GG02", "magic only", [] { return std::string("GGUF"); }, kBad, {"version", "too short"}));
  c.push_back(bytes_case("GG03", "magic", [] { return "GGML" + std::string(60, '\1'); }, kBad, {"magic"}));
  for (const uint32_t version : {0u, 1u, 99u})
    c.push_back(changed("GG04", "version", [=](GgufBytes& f) { f.version = version; }, kNo, {"version"}));
  c.push_back(changed("GG05", "big endian", [](GgufBytes& f) { f.version = 0x03000000; }, kNo,
                      {"version", "byte order"}));
  c.push_back(
      bytes_case("GG06", "minus one", [] { return counts(~0ull, 0); }, kBad, {"n_tensors", "can hold"}));
  c.push_back(
      bytes_case("GG07", "2^40", [] { return counts(1ull << 40, 0); }, kBad, {"n_tensors", "can hold"}));
  c.push_back(bytes_case("GG08", "minus one", [] { return counts(0, ~0ull); }, kBad, {"n_kv", "can hold"}));
  c.push_back(bytes_case("GG09", "2^40", [] { return counts(0, 1ull << 40); }, kBad, {"n_kv", "can hold"}));
}

void add_keys(std::vector<BadCase>& c) {
  c.push_back(with_pair("GG10", "2^63", raw(1ull << 63) + "abc", kBad, {"kv 0", "length"}));
  c.push_back(with_pair("GG11", "empty", gguf_pair("", 1u), kBad, {"kv 0"}));
  c.push_back(with_pair("GG12", "zero byte", gguf_pair(std::string("a\0b", 3), 1u), kBad, {"kv 0"}));
  c.push_back(with_pair("GG13", "not UTF-8", gguf_pair("a\xff", 1u), kBad, {"kv 0"}));
  c.push_back(with_pair("GG14", "long", gguf_pair(std::string(70000, 'k'), 1u), kBad, {"kv 0", "65535"}));
  c.push_back(with_pair("GG15", "twice", gguf_pair("llama.block_count", 1u), kBad, {"llama.block_count"}));
  for (const uint32_t type : {99u, ~0u})
    c.push_back(with_pair("GG16", "type", gguf_pair("k", type, raw(0ull)), kBad, {"\"k\"", "type"}));
  c.push_back(
      with_pair("GG17", "past the end", gguf_pair("k", 8, raw(1ull << 30)), kBad, {"\"k\"", "length"}));
  c.push_back(with_pair("GG18", "2^63", gguf_pair("k", 8, raw(1ull << 63)), kBad, {"\"k\"", "length"}));
  c.push_back(with_pair("GG19", "2^62 bytes", gguf_pair("k", 9, array(0, 1ull << 62)), kBad, {"\"k\""}));
  c.push_back(with_pair("GG20", "2^61 strings", gguf_pair("k", 9, array(8, 1ull << 61)), kBad, {"\"k\""}));
  c.push_back(with_pair("GG21", "one level", gguf_pair("k", 9, array(9, 1, array(0, 0))), kNo, {"\"k\""}));
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += array(9, 1);
  c.push_back(with_pair("GG21", "100000 levels", gguf_pair("k", 9, deep), kBad, {"\"k\""}));
  c.push_back(with_pair("GG22", "bool 2", gguf_pair("k", 7, "\2"), kBad, {"\"k\"", "2"}));
  c.push_back(
      changed("GG22", "NaN",
              [](GgufBytes& f) { f.set("llama.rope.freq_base", gguf_pair("llama.rope.freq_base", NAN)); },
              kBad, {"llama.rope.freq_base"}));
  for (const uint32_t value : {0u, 3u, 1u << 31})
    c.push_back(
        with_pair("GG23", "alignment", gguf_pair("general.alignment", value), kBad, {"general.alignment"}));
  c.push_back(with_pair("GG23", "alignment type", gguf_pair("general.alignment", 10, raw(32ull)), kBad,
                        {"general.alignment"}));
  c.push_back(changed("GG23", "alignment 1",
                      [](GgufBytes& f) {
                        f.alignment = 1;
                        f.set("general.alignment", gguf_pair("general.alignment", 1u));
                      },
                      Exit::ok, {}));
}

void add_records(std::vector<BadCase>& c) {
  for (const size_t rank : {5, 40})
    c.push_back(
        with_record("GG24", "rank", {"x", std::vector<uint64_t>(rank, 1), 0}, kBad, {"tensor 0", "n_dims"}));
  c.push_back(with_record("GG25", "minus one", {"x", {~0ull}, 0}, kBad, {"tensor 0", "dimension"}));
  c.push_back(
      with_record("GG25", "INT64_MAX", {"x", {uint64_t(INT64_MAX), 2}, 0}, kBad, {"tensor 0", "dimension"}));
  c.push_back(with_record("GG25", "2^32 squared", {"x", {1ull << 32, 1ull << 32}, 0}, kBad,
                          {"tensor 0", "dimension"}));
  c.push_back(with_record("GG25", "2^31 cubed", {"x", {1ull << 31, 1ull << 31, 1ull << 31}, 0}, kBad,
                          {"tensor 0", "dimension"}));
  c.push_back(
      with_record("GG26", "bytes", {"x", {1ull << 31, 1ull << 31}, 28}, kBad, {"tensor 0", "overflow"}));
  for (const uint32_t type : {~0u, 9999u})
    c.push_back(with_record("GG27", "type", {"x", {1}, type}, kBad, {"tensor 0", "type"}));
  for (const uint32_t type : {4u, 5u, 16u, 39u})
    c.push_back(with_record("GG27", "unread", {"x", {1}, type}, kNo, {"tensor 0", "type"}));
  c.push_back(with_record("GG28", "Q4_0", {"x", {33, 1}, 2}, kBad, {"tensor 0", "33", "32"}));
  c.push_back(with_record("GG28", "Q6_K", {"x", {128, 2}, 14}, kBad, {"tensor 0", "128", "256"}));
  const auto offsets = [&](const char* name, const char* rule, uint64_t offset, const char* word) {
    c.push_back(bytes_case(rule, name,
                           [offset] {
                             GgufBytes file = GgufBytes::llama();
                             uint64_t at = 0;
                             for (GgufRecord& r : file.records) {
                               r.offset = at;
                               at += (r.data.size() + 31) / 32 * 32;
                             }
                             file.records[2].offset = offset;
                             return file.assembled(true);
                           },
                           kBad, {"tensor", word}));
  };
  offsets("past the end", "GG29", 1 << 30, "offset");
  offsets("unaligned", "GG29", 641, "offset");
  offsets("minus one", "GG29", ~0ull, "offset");
  offsets("overlap", "GG29", 0, "overlap");
  offsets("gap", "GG29", 672, "gap");
  offsets("region", "GG31", 608, "need");
  c.push_back(with_record("GG30", "twice", {"output_norm.weight", {32}, 0, 0, std::string(128, '\0')}, kBad,
                          {"tensor", "output_norm.weight"}));
  for (const std::string& name : {std::string(), std::string(64, 'n'), std::string("a\0b", 3),
                                  std::string("a\x1b"), std::string("../a")})
    c.push_back(with_record("GG30", "name", {name, {1}, 0, 0, std::string(4, '\0')}, kBad, {"tensor 0"}));
  c.push_back(bytes_case("GG31", "short",
                         [] {
                           std::string bytes = GgufBytes::llama().assembled();
                           return bytes.substr(0, bytes.size() - 1000);
                         },
                         kBad, {"tensor", "missing"}));
  c.push_back(bytes_case("GG32", "trailing", [] { return GgufBytes::llama().assembled() + "123"; }, kBad,
                         {"3 trailing bytes"}));
}

std::function<void(GgufBytes&)> tokenizer(std::function<void(GgufBytes&)> then) {
  return [then](GgufBytes& f) {
    f.set("tokenizer.ggml.model", gguf_pair("tokenizer.ggml.model", "gpt2"));
    f.set("tokenizer.ggml.pre", gguf_pair("tokenizer.ggml.pre", "gpt-2"));
    f.set("tokenizer.ggml.tokens", gguf_strings("tokenizer.ggml.tokens", {"a", "b", "ab", "<e>"}));
    f.set("tokenizer.ggml.merges", gguf_strings("tokenizer.ggml.merges", {"a b"}));
    then(f);
  };
}

void add_model(std::vector<BadCase>& c) {
  const auto set = [](std::string key, std::string pair) { return [=](GgufBytes& f) { f.set(key, pair); }; };
  c.push_back(changed("GG33", "tokenizer accepted", tokenizer([](GgufBytes&) {}), Exit::ok, {}));
  c.push_back(changed("GG33", "tokens",
                      tokenizer(set("tokenizer.ggml.tokens", gguf_strings("tokenizer.ggml.tokens", {"a"}))),
                      kBad, {"tokenizer.ggml.tokens"}));
  c.push_back(changed(
      "GG33", "scores",
      tokenizer(set("tokenizer.ggml.scores", gguf_pair("tokenizer.ggml.scores", 9, array(6, 1, raw(0.0f))))),
      kBad, {"tokenizer.ggml.scores"}));
  c.push_back(changed("GG33", "token_type",
                      tokenizer(set("tokenizer.ggml.token_type",
                                    gguf_pair("tokenizer.ggml.token_type", 9, array(5, 1, raw(1))))),
                      kBad, {"tokenizer.ggml.token_type"}));
  c.push_back(changed(
      "GG33", "scores of another type",
      tokenizer(set("tokenizer.ggml.scores", gguf_pair("tokenizer.ggml.scores", 9, array(0, 4, "1234")))),
      kBad, {"tokenizer.ggml.scores"}));
  c.push_back(
      changed("GG33", "special id",
              tokenizer(set("tokenizer.ggml.bos_token_id", gguf_pair("tokenizer.ggml.bos_token_id", 9u))),
              kBad, {"bos_token_id", "9"}));
  c.push_back(changed("GG33", "charsmap",
                      tokenizer(set("tokenizer.ggml.precompiled_charsmap",
                                    gguf_pair("tokenizer.ggml.precompiled_charsmap", 9, array(0, 1, "x")))),
                      kBad, {"precompiled_charsmap"}));
  c.push_back(changed("GG33", "blocks", set("llama.block_count", gguf_pair("llama.block_count", 1000000u)),
                      kBad, {"llama.block_count"}));
  const auto split = [&](const char* name, std::string file, uint32_t no, uint32_t count, Exit exit,
                         std::vector<std::string> words) {
    BadCase row = changed("GG34", name, {}, exit, std::move(words));
    row.make = [=](const std::string& folder) {
      GgufBytes f = GgufBytes::llama();
      f.set("split.no", gguf_pair("split.no", no));
      f.set("split.count", gguf_pair("split.count", count));
      write_file(folder + "/" + file, f.assembled());
      return folder + "/" + file;
    };
    c.push_back(row);
  };
  split("number", "m-00001-of-00002.gguf", 1, 2, kBad, {"split.no"});
  split("count", "m-00001-of-00003.gguf", 0, 2, kBad, {"split.count"});
  split("name", "m.gguf", 0, 2, kBad, {"split.count"});
  split("second", "m-00002-of-00002.gguf", 1, 2, kBad, {"first part"});
  split("missing part", "m-00001-of-00002.gguf", 0, 2, Exit::io, {"m-00002-of-00002.gguf"});
  c.push_back(changed("GG35", "missing", [](GgufBytes& f) { f.erase("general.architecture"); }, kBad,
                      {"general.architecture"}));
  c.push_back(changed("GG35", "unknown",
                      set("general.architecture", gguf_pair("general.architecture", "mamba")), kNo,
                      {"general.architecture", "mamba"}));
  for (const uint16_t scale : {uint16_t{0x7c00}, uint16_t{0x7e00}})
    c.push_back(changed("GG36", "scale",
                        [scale](GgufBytes& f) {
                          GgufRecord& r = f.record("blk.0.attn_v.weight");
                          r.type = 2;
                          r.data = std::string(16 * 18, '\0');
                          r.data.replace(3 * 18, 2, raw(scale));
                        },
                        Exit::numeric, {"blk.0.attn_v.weight", "block 0"}));
  c.push_back(changed("GG37", "pre",
                      tokenizer(set("tokenizer.ggml.pre", gguf_pair("tokenizer.ggml.pre", "tekken"))), kNo,
                      {"tokenizer.ggml.pre", "tekken"}));
  c.push_back(changed("GG37", "no pre", tokenizer([](GgufBytes& f) { f.erase("tokenizer.ggml.pre"); }), kNo,
                      {"tokenizer.ggml.pre"}));
  c.push_back(changed("GG38", "sum",
                      [](GgufBytes& f) {
                        f.set("pare.xxh3_128",
                              gguf_strings("pare.xxh3_128",
                                           std::vector<std::string>(f.records.size(), std::string(32, 'a'))));
                      },
                      kBad, {"tensor 0", "token_embd.weight", "aaaaaaaa"}));
  c.push_back(changed(
      "GG38", "number of sums",
      [](GgufBytes& f) { f.set("pare.xxh3_128", gguf_strings("pare.xxh3_128", {std::string(32, 'a')})); },
      kBad, {"pare.xxh3_128"}));
}

}  // namespace

std::vector<BadCase> gguf_cases() {
  std::vector<BadCase> cases;
  add_header(cases);
  add_keys(cases);
  add_records(cases);
  add_model(cases);
  return cases;
}

}  // namespace pare::test
