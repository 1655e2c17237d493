// formats/gguf/writer.h: a GGUF v3 file whose tensors are known beforehand, written in order; with checksums.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/tensor/shape.h"
#include "formats/gguf/header.h"

namespace pare {

// Key-value pairs as bytes.
class GgufPairs {
 public:
  void add(std::string_view key, uint32_t value);
  void add(std::string_view key, float value);
  void add(std::string_view key, bool value);
  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  void add(std::string_view key, const std::vector<std::string>& values);
  void add(std::string_view key, const std::vector<float>& values);
  void add(std::string_view key, const std::vector<int32_t>& values);
  const std::string& bytes() const { return bytes_; }
  uint64_t count() const { return count_; }

 private:
  void begin(std::string_view key, GgufValueType type);
  std::string bytes_;
  uint64_t count_ = 0;
};

struct GgufSpec {
  std::string name;
  GgufType type = GgufType::f32;
  Shape shape;  // outermost first
  uint64_t bytes() const;
};

class GgufWriter {
 public:
  // Header with room for a checksum per tensor. Errors of FileWriter::create.
  static Result<GgufWriter> create(const std::string& path, const WriteOptions& options,
                                   const GgufPairs& pairs, std::vector<GgufSpec> tensors);

  // The bytes of the next tensor, whole.
  Status write(std::span<const std::byte> bytes);
  // Fills in the checksums, re-opens the file, compares every tensor with what was handed in, checks that all
  // values are finite (NU12), and publishes.
  Status finish();
  uint64_t bytes_written() const { return writer_.position(); }

 private:
  GgufWriter(std::string path, FileWriter writer, std::vector<GgufSpec> tensors)
      : path_(std::move(path)), writer_(std::move(writer)), tensors_(std::move(tensors)) {}
  std::string path_;
  FileWriter writer_;
  std::vector<GgufSpec> tensors_;
  std::vector<Hash128> sums_;
  uint64_t sums_at_ = 0;  // where the first checksum's length stands
};

}  // namespace pare
