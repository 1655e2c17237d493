// libFuzzer: a safetensors file from its first byte to the last byte of its last tensor, and written again.
#include <cstdlib>
#include <span>

#include "engine/core/hash.h"
#include "formats/file_kind.h"
#include "formats/safetensors.h"
#include "tests/fuzz/one_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const pare::fuzz::OneFile file(data, size);
  auto input = file.open();
  if (!input) std::abort();  // a plain file always opens
  if (!pare::detect_file(*input)) std::abort();
  const auto opened = pare::SafetensorsFile::open(std::move(*input));
  if (!opened) {
    // Every refusal names its rule and fits on one line.
    if (opened.error().rule.empty() || pare::format_error(opened.error()).find('\n') != std::string::npos)
      std::abort();
    return 0;
  }
  std::vector<pare::SafetensorsSpec> specs;
  for (const pare::SafetensorsEntry& entry : (*opened)->entries()) {
    const auto tensor = (*opened)->load(entry.name);
    if (!tensor || tensor->size_bytes() != entry.bytes()) std::abort();
    if (entry.bytes() > 0) static_cast<void>(pare::xxh3_128(std::span(tensor->raw(), tensor->size_bytes())));
    specs.push_back({entry.name, entry.dtype, entry.shape});
  }
  // What was accepted is written as something that is accepted.
  const auto header = pare::safetensors_header_bytes(specs, 0, "written");
  uint64_t bytes = header ? header->size() : 0;
  for (const pare::SafetensorsSpec& spec : specs) bytes += spec.bytes();
  if (!header || !pare::parse_safetensors_header(header->substr(8), bytes, "written")) std::abort();
  return 0;
}
