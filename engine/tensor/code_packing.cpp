// pack_codes() and unpack_codes() of quantized_tensor.h: eight codes of b bits are b bytes, low bits first.
#include <algorithm>
#include <cstring>

#include "engine/core/assert.h"
#include "engine/tensor/quantized_tensor.h"

namespace pare {

void pack_codes(const uint8_t* codes, int64_t count, int bits, uint8_t* packed) {
  PARE_ASSERT(bits >= 1 && bits <= 8, "[pack_codes] {} bits", bits);
  uint8_t seen = 0;
  for (int64_t begin = 0; begin < count; begin += 8) {
    const int used = int(std::min<int64_t>(8, count - begin));
    uint64_t word = 0;
    for (int i = 0; i < used; ++i) {
      seen |= codes[begin + i];
      word |= uint64_t(codes[begin + i]) << (i * bits);
    }
    const int bytes = (used * bits + 7) / 8;
    for (int i = 0; i < bytes; ++i) *packed++ = uint8_t(word >> (8 * i));
  }
  PARE_ASSERT(int{seen} < (1 << bits), "[pack_codes] a code does not fit into {} bits", bits);
}

void unpack_codes(const uint8_t* packed, int64_t count, int bits, uint8_t* codes) {
  PARE_ASSERT(bits >= 1 && bits <= 8, "[unpack_codes] {} bits", bits);
  if (bits == 8) {
    if (count > 0) std::memcpy(codes, packed, size_t(count));
    return;
  }
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  for (int64_t begin = 0; begin < count; begin += 8) {
    const int used = int(std::min<int64_t>(8, count - begin));
    const int bytes = (used * bits + 7) / 8;
    uint64_t word = 0;
    for (int i = 0; i < bytes; ++i) word |= uint64_t(*packed++) << (8 * i);
    for (int i = 0; i < used; ++i) codes[begin + i] = uint8_t((word >> (i * bits)) & mask);
  }
}

}  // namespace pare
