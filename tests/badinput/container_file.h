// tests/badinput/container_file.h: a .pare file taken apart, to be changed and put together with every
// checksum right again (PK31): what a validator must find without their help.
#pragma once

#include <string>

#include "engine/core/json.h"
#include "formats/pare_format.h"

namespace pare::test {

struct ContainerFile {
  std::string payload;  // superblock and parts
  Json directory;

  // The tiny model of tests/formats.
  static ContainerFile tiny();

  // The sparse and low-rank matrices of tests/formats.
  static ContainerFile forms();

  Json& tensor(const std::string& name);
  Json& part(const std::string& tensor_name, const std::string& role);
  // Changes bytes of a part; its sum follows.
  void set_bytes(const std::string& tensor_name, const std::string& role, size_t at,
                 const std::string& bytes);

  // Sums of records, directory, superblock and trailer computed anew; the offset of the directory follows the
  // payload.
  std::string assembled() const;
  // The same with this text as directory.
  std::string assembled_with(const std::string& directory_text) const;
};

}  // namespace pare::test
