// formats/tensorboard/crc32c.h: CRC-32C (Castagnoli), as the records of TensorFlow and iSCSI use it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace pare {

// Reflected polynomial 0x82f63b78, initial value and final exclusive or of all ones. Source: RFC 3720,
// appendix B.4.
uint32_t crc32c(std::span<const std::byte> bytes);

}  // namespace pare
