// Unicode 15, table 3-7 and the practice of substituting maximal subparts.
#include "engine/tokenizer/decoders.h"

namespace pare {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Lead {
  size_t bytes;             // of the character; 0: not a lead byte
  unsigned char low, high;  // range of the second byte
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0x80, 0xBF};
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

void LossyUtf8::push(std::string_view bytes, std::string& out) {
  std::string joined;
  if (!pending_.empty()) {
    joined = pending_;
    joined += bytes;
    pending_.clear();
    bytes = joined;
  }
  for (size_t i = 0; i < bytes.size();) {
    const Lead lead = lead_of(static_cast<unsigned char>(bytes[i]));
    if (lead.bytes == 1) {
      out += bytes[i++];
      continue;
    }
    size_t good = lead.bytes == 0 ? 0 : 1;  // bytes from i on that a valid character may begin with
    while (good > 0 && good < lead.bytes && i + good < bytes.size()) {
      const auto next = static_cast<unsigned char>(bytes[i + good]);
      const bool fits = good == 1 ? next >= lead.low && next <= lead.high : next >= 0x80 && next <= 0xBF;
      if (!fits) break;
      ++good;
    }
    if (good > 0 && good == lead.bytes) {
      out += bytes.substr(i, good);
    } else if (good > 0 && i + good == bytes.size()) {
      pending_ = bytes.substr(i);
    } else {
      out += kReplacement;
    }
    i += good == 0 ? 1 : good;
  }
}

void LossyUtf8::finish(std::string& out) {
  if (!pending_.empty()) out += kReplacement;
  pending_.clear();
}

}  // namespace pare
