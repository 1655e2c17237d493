// formats/gguf/metadata.h: typed access to the key-value pairs of a GGUF header; internal to formats.
//
// A key that is absent gives nothing; one of the wrong type or with an impossible value is GG22 or GG33 and
// names the key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"
#include "formats/gguf/header.h"

namespace pare {

class GgufMetadata {
 public:
  // Both must outlive the reader.
  GgufMetadata(const GgufHeader& header, std::string_view path) : header_(header), path_(path) {}

  bool has(std::string_view key) const { return header_.find(key) != nullptr; }
  std::string_view path() const { return path_; }

  // An integer of any width in [low, high]. One value per layer is accepted when all are equal (else exit 4).
  Result<std::optional<int64_t>> integer(std::string_view key, int64_t low, int64_t high) const;
  Result<int64_t> required_integer(std::string_view key, int64_t low, int64_t high) const;
  // A finite number; an f32 is read as the shortest decimal that gives it, so that 1e-05 stays 1e-05.
  Result<std::optional<double>> number(std::string_view key) const;
  Result<double> required_positive(std::string_view key) const;
  Result<std::optional<bool>> flag(std::string_view key) const;
  Result<std::optional<std::string>> text(std::string_view key) const;

  // Arrays, whose elements the parser has walked already.
  Result<std::vector<std::string_view>> strings(std::string_view key) const;  // UTF-8
  Result<std::vector<float>> floats(std::string_view key) const;              // finite
  Result<std::vector<int64_t>> integers(std::string_view key) const;
  std::optional<uint64_t> count(std::string_view key) const;  // elements of an array

  Error bad(std::string_view key, std::string what, std::string got = {}, std::string expected = {}) const;
  Error missing(std::string_view key) const;

 private:
  Result<const GgufPair*> array(std::string_view key) const;
  Error wrong_type(const GgufPair& pair, std::string_view expected) const;

  const GgufHeader& header_;
  std::string_view path_;
};

}  // namespace pare
