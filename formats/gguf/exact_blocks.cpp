#include "formats/gguf/exact_blocks.h"

#include <vector>

#include "formats/gguf/block_layout.h"

namespace pare {
namespace {

using Offset = QuantScheme::Offset;

bool has_type_of(GgufType type, const QuantScheme& scheme, const BlockScheme& blocks) {
  if (scheme.kind != QuantScheme::Kind::integer || scheme.granularity != QuantScheme::Granularity::group)
    return false;
  if (blocks.has_two_levels() || scheme.group_size != blocks.group || scheme.bits != blocks.bits)
    return false;
  if (scheme.scale_dtype != DType::f16) return false;
  if (blocks.has_minimum) return scheme.offset == Offset::minimum;
  return scheme.offset == Offset::none || (scheme.offset == Offset::zero_point && type != GgufType::q8_0);
}

}  // namespace

bool holds_exactly(GgufType type, const QuantizedTensor& tensor) {
  const auto& blocks = gguf_type_info(type).blocks;
  if (!blocks || !has_type_of(type, tensor.scheme, *blocks) || tensor.in() % blocks->block != 0) return false;
  if (tensor.group_index.defined()) return false;
  if (tensor.scheme.offset != Offset::zero_point) return true;
  const uint8_t* zeros = tensor.zero_points.data<uint8_t>();
  const int zero = blocks->code_of_zero();
  for (int64_t i = 0; i < tensor.zero_points.numel(); ++i) {
    if (zeros[i] != zero && zeros[i] != zero - 1) return false;
  }
  return true;
}

void exact_row(GgufType type, const QuantizedTensor& tensor, int64_t row, std::byte* bytes) {
  const GgufTypeInfo& info = gguf_type_info(type);
  const int width = info.blocks->block;
  const int64_t in = tensor.in(), count = in / width;
  std::vector<uint8_t> codes(static_cast<size_t>(in));
  unpack_codes(tensor.codes.data<uint8_t>() + row * tensor.scheme.row_bytes(in), in, tensor.scheme.bits,
               codes.data());
  BlockCodes block;
  for (int64_t b = 0; b < count; ++b) {
    const int64_t index = row * count + b;
    block.d = tensor.scales.data<uint16_t>()[index];
    const uint8_t* from = codes.data() + b * width;
    const bool turned = tensor.scheme.offset == Offset::zero_point &&
                        tensor.zero_points.data<uint8_t>()[index] != info.blocks->code_of_zero();
    if (turned) block.d = static_cast<uint16_t>(block.d ^ 0x8000u);
    for (int i = 0; i < width; ++i)
      block.codes[static_cast<size_t>(i)] =
          turned ? static_cast<uint8_t>(info.blocks->highest_code() - from[i]) : from[i];
    if (info.blocks->has_minimum) block.dmin = tensor.minimums.data<uint16_t>()[index];
    pack_gguf_block(type, block, bytes + static_cast<size_t>(b) * info.block_bytes);
  }
}

}  // namespace pare
