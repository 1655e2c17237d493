// engine/tokenizer/piece.h: a range of bytes in a text.
#pragma once

#include <cstddef>
#include <string_view>

namespace pare {

struct Piece {
  size_t begin = 0, end = 0;
  bool operator==(const Piece&) const = default;
  std::string_view of(std::string_view text) const { return text.substr(begin, end - begin); }
};

}  // namespace pare
