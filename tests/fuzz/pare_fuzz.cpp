// libFuzzer: a .pare file. Random changes die at the checksums, so each input is also read with its sums put
// right.
#include <cstdlib>
#include <cstring>
#include <span>

#include "formats/pare_directory.h"
#include "formats/pare_frame.h"
#include "formats/pare_source.h"
#include "tests/fuzz/one_file.h"

namespace {

void read_all(const uint8_t* data, size_t size, bool verify_checksums) {
  const pare::fuzz::OneFile file(data, size);
  auto input = file.open();
  if (!input) std::abort();
  const auto source = pare::open_pare("fuzzed", std::move(*input), verify_checksums);
  if (!source) {
    if (pare::format_error(source.error()).find('\n') != std::string::npos) std::abort();
    return;
  }
  for (const pare::StoredTensor& tensor : (*source)->tensors()) {
    const auto weight = (*source)->load(tensor.name);
    if (!weight || weight->is_dense() || tensor.shape.numel() > 1 << 16) continue;
    static_cast<void>(weight->to_dense_tensor());
  }
}

// The directory is taken to be what lies between the last multiple of 64 at which a '{' stands and the
// trailer.
std::string with_sums(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  if (size < pare::kSuperblockBytes + pare::kTrailerBytes) return {};
  const size_t end = size - pare::kTrailerBytes;
  size_t begin = end / pare::kPartAlignment * pare::kPartAlignment;
  while (begin > 0 && bytes[begin] != '{') begin -= pare::kPartAlignment;
  if (begin == 0) return {};
  std::string text = bytes.substr(begin, end - begin);
  // Sums of the records, if it is JSON at all.
  if (auto json = pare::parse_json(text, "", {.max_bytes = 1 << 20})) {
    if (const pare::Json* tensors = json->find("tensors"); tensors != nullptr && tensors->is_array()) {
      for (pare::Json& tensor : (*json)["tensors"].items()) {
        if (tensor.is_object()) tensor["xxh3"] = pare::record_sum(tensor).hex();
      }
      text = json->dump();
    }
  }
  const auto superblock = pare::superblock_bytes();
  const auto trailer = pare::trailer_bytes({begin, text.size(), pare::xxh3_128(std::string_view(text))});
  std::memcpy(bytes.data(), superblock.data(), superblock.size());
  return bytes.substr(0, begin) + text +
         std::string(reinterpret_cast<const char*>(trailer.data()), trailer.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  read_all(data, size, true);
  const std::string repaired = with_sums(data, size);
  if (!repaired.empty()) read_all(reinterpret_cast<const uint8_t*>(repaired.data()), repaired.size(), false);
  return 0;
}
