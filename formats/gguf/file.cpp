#include "formats/gguf/file.h"

#include <fmt/core.h>

#include <cmath>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"
#include "formats/fault.h"
#include "formats/gguf/block_layout.h"
#include "formats/gguf/metadata.h"
#include "formats/gguf/tensor_data.h"

namespace pare {

Result<std::shared_ptr<const GgufFile>> GgufFile::open(InputFile input) {
  auto file = std::shared_ptr<GgufFile>(new GgufFile(std::move(input)));
  if (file->file_.size() == 0)
    return malformed("GG01", file->path(), "magic", "file too short", "0", "4", "need");
  PARE_TRY(file->mapping_, MappedFile::map(file->file_));
  PARE_TRY(file->header_, parse_gguf(file->mapping_->bytes(), file->path()));
  PARE_CHECK(file->read_sums());
  return std::shared_ptr<const GgufFile>(std::move(file));
}

Status GgufFile::read_sums() {
  const GgufMetadata metadata(header_, path());
  if (!metadata.has(kGgufSums)) return {};
  const auto bad = [this](std::string what, std::string got, std::string expected) {
    return malformed("GG38", path(), kGgufSums, std::move(what), std::move(got), std::move(expected));
  };
  auto texts = metadata.strings(kGgufSums);
  if (!texts) return bad("not an array of strings", "", "");
  if (texts->size() != header_.tensors.size())
    return bad("needs one checksum per tensor", std::to_string(texts->size()),
               std::to_string(header_.tensors.size()));
  for (const std::string_view text : *texts) {
    const auto sum = Hash128::from_hex(text);
    if (!sum) return bad("not a checksum", quote(text), "32 hex digits");
    sums_.push_back(*sum);
  }
  return {};
}

std::span<const std::byte> GgufFile::bytes(const GgufTensor& tensor) const {
  return mapping_->bytes().subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.bytes));
}

Status GgufFile::check_sum(size_t index) const {
  if (sums_.empty()) return {};
  const GgufTensor& tensor = header_.tensors[index];
  const Hash128 found = xxh3_128(bytes(tensor));
  if (found == sums_[index]) return {};
  return malformed("GG38", path(), fmt::format("tensor {} {}", index, quote(tensor.name)),
                   "checksum mismatch", found.hex(), sums_[index].hex());
}

Status GgufFile::check_values(const GgufTensor& tensor) const {
  const GgufTypeInfo& info = gguf_type_info(tensor.type);
  const std::span<const std::byte> all = bytes(tensor);
  if (info.dtype) {
    if (!is_floating(*info.dtype) || all.empty()) return {};
    PARE_TRY(const WeightData values, load_gguf_tensor(tensor, all, mapping_, {}, path()));
    return require_finite(values.dense(), tensor.name, path());
  }
  const auto blocks = static_cast<int64_t>(tensor.bytes / info.block_bytes);
  constexpr int64_t kBlocksPerItem = 4096;
  std::vector<int64_t> first(static_cast<size_t>((blocks + kBlocksPerItem - 1) / kBlocksPerItem), -1);
  parallel_ranges(blocks, kBlocksPerItem, [&](int64_t begin, int64_t end) {
    BlockCodes block;
    int64_t& bad = first[static_cast<size_t>(begin / kBlocksPerItem)];
    for (int64_t b = begin; b < end && bad < 0; ++b) {
      unpack_gguf_block(tensor.type, all.data() + static_cast<size_t>(b) * info.block_bytes, block);
      const GroupValues values = group_values(*info.blocks, block, 0);
      if (!std::isfinite(values.scale) || !std::isfinite(values.minimum)) bad = b;
    }
  });
  for (const int64_t bad : first) {
    if (bad >= 0)
      return fault(Exit::numeric, "GG36", path(), fmt::format("tensor {} block {}", quote(tensor.name), bad),
                   "scale of the block is not finite");
  }
  return {};
}

void GgufFile::release(const GgufTensor& tensor) const {
  mapping_->drop(tensor.offset, tensor.bytes);
}

}  // namespace pare
