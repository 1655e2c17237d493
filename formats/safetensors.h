// formats/safetensors.h: one safetensors file: read after strict validation, write in the reference order.
//
// Layout: u64 N, N bytes of JSON header, data. Rules ST01 to ST26 of docs/bad-input.md.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/result.h"
#include "engine/tensor/tensor.h"

namespace pare {

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  uint64_t begin = 0, end = 0;  // bytes, from the start of the data
  uint64_t bytes() const { return end - begin; }
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // by offset: together they cover the data without gap or overlap
  std::vector<std::pair<std::string, std::string>> metadata;  // in file order
  uint64_t data_begin = 0;                                    // byte of the file at which the data starts
};

// Checks header and file size against each other. `json` is the N bytes of the header; `file_bytes` the whole
// size.
Result<SafetensorsHeader> parse_safetensors_header(std::string_view json, uint64_t file_bytes,
                                                   std::string_view path);

// A validated file, mapped. Tensors are read-only views of the mapping; one whose first byte is not aligned
// to its element is copied. Cheap to share between threads.
class SafetensorsFile {
 public:
  static Result<std::shared_ptr<const SafetensorsFile>> open(const std::string& path);
  // Takes an opened file, for readers that confine themselves to a folder.
  static Result<std::shared_ptr<const SafetensorsFile>> open(InputFile file);

  const std::string& path() const { return file_.path(); }
  uint64_t size_bytes() const { return file_.size(); }
  const SafetensorsHeader& header() const { return header_; }
  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  const SafetensorsEntry* find(std::string_view name) const;

  Result<Tensor> load(const SafetensorsEntry& entry) const;
  Result<Tensor> load(std::string_view name) const;  // exit 3 when absent
  std::span<const std::byte> bytes(const SafetensorsEntry& entry) const;
  void release(const SafetensorsEntry& entry) const;  // its pages are not needed any more
  const InputFile& file() const { return file_; }
  const std::shared_ptr<const MappedFile>& mapping() const { return mapping_; }

 private:
  explicit SafetensorsFile(InputFile file) : file_(std::move(file)) {}
  InputFile file_;
  std::shared_ptr<const MappedFile> mapping_;
  SafetensorsHeader header_;
  std::vector<size_t> by_name_;  // indices into entries, sorted by name
};

// All tensors of a small file (logits, ids), in file order.
Result<std::vector<std::pair<std::string, Tensor>>> read_safetensors(const std::string& path);

// One tensor of a file to come.
struct SafetensorsSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  uint64_t bytes() const;
};

// The order of the reference writer: widest type first, then by name. Every tensor then starts aligned to its
// element.
void sort_reference_order(std::vector<SafetensorsSpec>& specs);

// Texts of a header beside `format`, which is always written.
using SafetensorsMetadata = std::vector<std::pair<std::string, std::string>>;

// u64 length and JSON header of tensors that follow in the order of `specs`; padded with spaces so that the
// data starts at a multiple of 64 bytes, or at `data_begin` if that is not 0. Exit 6 above the cap of
// headers.
Result<std::string> safetensors_header_bytes(std::span<const SafetensorsSpec> specs, uint64_t data_begin,
                                             std::string_view path, const SafetensorsMetadata& metadata = {});

// Streams a file whose tensors are known beforehand: header first, then the data in the order of `specs`. One
// tensor may come in any number of pieces.
class SafetensorsWriter {
 public:
  static Result<SafetensorsWriter> create(const std::string& path, const WriteOptions& options,
                                          std::vector<SafetensorsSpec> specs,
                                          const SafetensorsMetadata& metadata = {});

  const std::vector<SafetensorsSpec>& specs() const { return specs_; }
  Status write(std::span<const std::byte> bytes);  // asserts that no more than the declared bytes come
  Status write(const Tensor& tensor);              // the next tensor of specs(), whole
  // Re-opens the file, compares its checksum with what was handed in, and publishes. Asserts that all data
  // came.
  Status finish();

 private:
  SafetensorsWriter(FileWriter writer, std::vector<SafetensorsSpec> specs, uint64_t total_bytes);
  FileWriter writer_;
  std::vector<SafetensorsSpec> specs_;
  Xxh3Stream checksum_;
  size_t next_ = 0;   // tensor that the next whole write must be
  uint64_t end_ = 0;  // size of the finished file
};

// Writes all tensors in reference order.
Status write_safetensors(const std::string& path, const WriteOptions& options,
                         std::span<const std::pair<std::string, Tensor>> tensors);

}  // namespace pare
