// libFuzzer: a GGUF file as a model, from its first byte to the values of its tensors.
#include <cstdlib>

#include "formats/gguf/source.h"
#include "tests/fuzz/one_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const pare::fuzz::OneFile file(data, size);
  auto input = file.open();
  if (!input) std::abort();
  const auto source = pare::open_gguf("fuzzed", std::move(*input), false);
  if (!source) {
    if (pare::format_error(source.error()).find('\n') != std::string::npos) std::abort();
    return 0;
  }
  for (const pare::StoredTensor& tensor : (*source)->tensors()) {
    const auto weight = (*source)->load(tensor.name);
    if (!weight || !weight->is_quantized() || weight->quantized()->shape.numel() > 1 << 16) continue;
    if (!weight->quantized()->validate("fuzzed", tensor.name)) std::abort();  // what is read is always valid
    static_cast<void>(weight->quantized()->dequantize());
  }
  return 0;
}
