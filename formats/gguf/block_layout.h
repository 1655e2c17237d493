// formats/gguf/block_layout.h: where the bytes of a GGUF block keep codes and scales; internal to formats.
//
// 32-weight blocks: d f16, the minimum f16 if there is one, fifth bits (u32), then nibbles: byte j holds
// weight j below and weight j + 16 above. 256-weight blocks: see each function. Source: docs/interop.md.
#pragma once

#include <cstddef>

#include "engine/tensor/block_codes.h"
#include "formats/gguf/tensor_type.h"

namespace pare {

// `bytes`: block_bytes of the type, which must be one of blocks.
void unpack_gguf_block(GgufType type, const std::byte* bytes, BlockCodes& block);
// Asserts that codes and scales fit their fields. Every byte is written.
void pack_gguf_block(GgufType type, const BlockCodes& block, std::byte* bytes);

}  // namespace pare
