// formats/pare_frame.h: the two ends of a .pare file; internal to formats.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/result.h"
#include "formats/pare_format.h"

namespace pare {

struct PareFrame {
  uint64_t directory_offset = 0, directory_bytes = 0;
  Hash128 directory_sum;
};

std::array<std::byte, kSuperblockBytes> superblock_bytes();
std::array<std::byte, kTrailerBytes> trailer_bytes(const PareFrame& frame);

// Reads and checks superblock and trailer: PK01, PK03, PK04, PK15, PK16, PK18, PK19, PK21, PK26, PK27, PK33.
// No field is used before the checksum over both has matched, except the ones that tell why it cannot.
Result<PareFrame> read_pare_frame(const InputFile& file);

// The text of the directory, its checksum verified.
Result<std::string> read_pare_directory_text(const InputFile& file, const PareFrame& frame);

}  // namespace pare
