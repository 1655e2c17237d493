// libFuzzer target: bytes as tokenizer.json. Whatever loads must encode and decode without a fault.
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pare::TokenizerFiles files;
  files.tokenizer_json.assign(reinterpret_cast<const char*>(data), size);
  files.tokenizer_json_path = "tokenizer.json";
  const auto tokenizer = pare::Tokenizer::load(files);
  if (!tokenizer) return 0;
  const std::string text = "Hello world's  \u00e9\u4e2d\U0001F600 12345\n\t<s> \u2581a e\u0301 \u00bd </s>!";
  for (bool special : {false, true}) {
    const auto ids = (*tokenizer)->encode(text, {.add_special = special, .parse_special = special});
    if (!ids) continue;
    const std::string decoded = (*tokenizer)->decode(*ids, special);
    pare::StreamDecoder stream(**tokenizer, special);
    std::string joined;
    for (int32_t id : *ids) joined += stream.push(id);
    if (joined + stream.flush() != decoded) __builtin_trap();  // the two must agree
  }
  return 0;
}
