// formats/gguf/token_kind.h: the values of tokenizer.ggml.token_type; internal to formats.
#pragma once

#include <cstdint>

namespace pare {

struct GgufTokenKind {
  enum Value : int32_t {
    undefined = 0,
    normal = 1,
    unknown = 2,
    control = 3,
    user_defined = 4,
    unused = 5,
    byte = 6
  };
};

}  // namespace pare
