#include "cli/shared_text.h"

#include <array>
#include <cstdint>
#include <vector>

namespace pare::cli {

Status share_text(GradientExchange& exchange, std::string& text) {
  if (exchange.size() == 1) return {};
  std::array<double, 1> length{exchange.is_first() ? double(text.size()) : 0.0};
  PARE_CHECK(exchange.sum(std::span<double>(length)));
  text.resize(size_t(length[0]));
  // Bytes travel as the floats 0 to 255.
  std::vector<float> floats(text.size());
  if (exchange.is_first())
    for (size_t i = 0; i < text.size(); ++i) floats[i] = float(uint8_t(text[i]));
  PARE_CHECK(exchange.broadcast(floats, 0));
  for (size_t i = 0; i < text.size(); ++i) text[i] = char(uint8_t(floats[i]));
  return {};
}

}  // namespace pare::cli
