// tests/badinput/gguf_file.h: GGUF files by hand, so that every field can be wrong.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pare::test {

template <typename T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
std::string gguf_string(const std::string& text);
// key, type and value as bytes
std::string gguf_pair(const std::string& key, uint32_t type, const std::string& value);
std::string gguf_pair(const std::string& key, uint32_t value);
std::string gguf_pair(const std::string& key, float value);
std::string gguf_pair(const std::string& key, const std::string& value);
std::string gguf_pair(const std::string& key, const char* value);
std::string gguf_strings(const std::string& key, const std::vector<std::string>& values);

// One record; dims in the order of the file.
struct GgufRecord {
  std::string name;
  std::vector<uint64_t> dims;
  uint32_t type = 0;
  uint64_t offset = 0;
  std::string data = {};
  std::string bytes() const;
};

struct GgufBytes {
  uint32_t version = 3;
  std::vector<std::string> pairs;
  std::vector<GgufRecord> records;
  uint64_t alignment = 32;

  // Header, padding, data; offsets follow each other unless `keep_offsets`.
  std::string assembled(bool keep_offsets = false) const;
  // A llama of one block, width 32, 4 tokens, all F32, values small. Runs.
  static GgufBytes llama();
  GgufRecord& record(const std::string& name);
  void set(const std::string& key, const std::string& pair);  // replaces a pair, or adds it
  void erase(const std::string& key);
};

}  // namespace pare::test
