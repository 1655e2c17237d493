#include "engine/tokenizer/charsmap.h"

#include <fmt/core.h>

#include <array>
#include <cstring>

#include "engine/core/text.h"
#include "engine/tokenizer/unicode.h"

namespace pare {
namespace {

// A unit of the double array: offset to the children, label of the edge that led here, and whether a value
// hangs below. Source: the Darts-clone format.
uint32_t offset_of(uint32_t unit) {
  return (unit >> 10) << ((unit & 0x200) >> 6);
}
uint32_t label_of(uint32_t unit) {
  return unit & 0x800000FF;
}
bool has_value(uint32_t unit) {
  return (unit >> 8 & 1) != 0;
}
uint32_t value_of(uint32_t unit) {
  return unit & 0x7FFFFFFF;
}

enum class Mark : uint8_t { white, open, done };

// Walks everything reachable from the root with a stack of its own.
class Check {
 public:
  Check(const std::vector<uint32_t>& units, const std::string& strings, const std::string& path,
        const std::string& where)
      : units_(units), strings_(strings), path_(path), where_(where), marks_(units.size(), Mark::white) {}

  Status run() {
    PARE_CHECK(enter(0));
    while (!stack_.empty()) {
      Frame& frame = stack_.back();
      if (frame.next_label == 256) {
        marks_[frame.unit] = Mark::done;
        stack_.pop_back();
        continue;
      }
      const uint32_t label = frame.next_label++;
      const uint64_t child = frame.children ^ label;
      if (child >= units_.size() || label_of(units_[child]) != label) continue;
      if (marks_[child] == Mark::open) return bad("cycle in the trie", child);
      if (marks_[child] == Mark::white) PARE_CHECK(enter(static_cast<uint32_t>(child)));
    }
    return {};
  }

 private:
  struct Frame {
    uint32_t unit, children, next_label;
  };

  Error bad(std::string_view what, uint64_t unit) const {
    return Error{.exit = Exit::malformed,
                 .rule = "TK16",
                 .path = path_,
                 .where = where_,
                 .what = fmt::format("precompiled_charsmap: {} at offset {}", what, 4 + 4 * unit)};
  }

  Status enter(uint32_t unit) {
    const uint32_t children = unit ^ offset_of(units_[unit]);
    if (children >= units_.size()) return bad("trie offset outside the array", unit);
    if (has_value(units_[unit])) {
      const uint32_t value = value_of(units_[children]);
      if (value >= strings_.size()) return bad("value outside the strings", children);
      if (unicode::is_continuation(strings_[value])) return bad("value inside a character", children);
    }
    marks_[unit] = Mark::open;
    stack_.push_back({unit, children, 1});  // label 0 is the value
    return {};
  }

  const std::vector<uint32_t>& units_;
  const std::string& strings_;
  const std::string& path_;
  const std::string& where_;
  std::vector<Mark> marks_;
  std::vector<Frame> stack_;
};

}  // namespace

Result<Charsmap> Charsmap::parse(std::string_view blob, const std::string& path, const std::string& where) {
  const auto bad = [&](std::string_view what, uint64_t got, uint64_t limit) {
    return Error{.exit = Exit::malformed,
                 .rule = "TK16",
                 .path = path,
                 .where = where,
                 .what = fmt::format("precompiled_charsmap: {} at offset 0", what),
                 .got = std::to_string(got),
                 .limit = std::to_string(limit)};
  };
  uint32_t trie_bytes = 0;
  if (blob.size() < sizeof trie_bytes) return bad("too short", blob.size(), sizeof trie_bytes);
  std::memcpy(&trie_bytes, blob.data(), sizeof trie_bytes);
  blob.remove_prefix(sizeof trie_bytes);
  if (trie_bytes > blob.size()) return bad("trie is larger than the map", trie_bytes, blob.size());
  if (trie_bytes == 0 || trie_bytes % 4 != 0)
    return bad("trie is not a whole number of units", trie_bytes, 4);
  Charsmap map;
  map.units_.resize(trie_bytes / 4);
  std::memcpy(map.units_.data(), blob.data(), trie_bytes);
  map.strings_ = blob.substr(trie_bytes);
  if (map.strings_.empty() || map.strings_.back() != '\0') {
    return bad("strings do not end with NUL", map.strings_.size(), blob.size());
  }
  if (const size_t invalid = first_invalid_utf8(map.strings_); invalid != 0) {
    return bad("strings are not UTF-8", invalid - 1, map.strings_.size());
  }
  PARE_CHECK(Check(map.units_, map.strings_, path, where).run());
  return map;
}

std::optional<std::string_view> Charsmap::replacement(std::string_view text) const {
  uint32_t at = offset_of(units_[0]);
  for (char byte : text) {
    const auto label = static_cast<unsigned char>(byte);
    if (label == 0) break;
    at ^= label;
    if (at >= units_.size() || label_of(units_[at]) != label) break;
    const bool found = has_value(units_[at]);
    at ^= offset_of(units_[at]);
    if (found) {
      const std::string_view rest = std::string_view(strings_).substr(value_of(units_[at]));
      return rest.substr(0, rest.find('\0'));
    }
  }
  return std::nullopt;
}

std::string Charsmap::apply(std::string_view text) const {
  constexpr size_t kWholeCluster = 6;
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  while (!text.empty()) {
    const size_t cluster = unicode::first_grapheme(text);
    if (cluster < kWholeCluster) {
      if (const auto mapped = replacement(text.substr(0, cluster))) {
        out += *mapped;
        text.remove_prefix(cluster);
        continue;
      }
    }
    for (size_t i = 0; i < cluster;) {
      const size_t bytes = unicode::decode_at(text.data() + i).bytes;
      const std::string_view character = text.substr(i, bytes);
      out += replacement(character).value_or(character);
      i += bytes;
    }
    text.remove_prefix(cluster);
  }
  return out;
}

std::optional<std::string> decode_base64(std::string_view text) {
  static constexpr auto kDigits = [] {
    std::array<int8_t, 256> digits{};
    digits.fill(-1);
    constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < kAlphabet.size(); ++i)
      digits[static_cast<size_t>(kAlphabet[i])] = static_cast<int8_t>(i);
    return digits;
  }();
  if (text.size() % 4 != 0) return std::nullopt;
  size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  const size_t digits = text.size() - padding;
  std::string out;
  out.reserve(text.size() / 4 * 3);
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const int8_t digit = i < digits ? kDigits[static_cast<unsigned char>(text[i])] : int8_t{0};
    if (digit < 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if (i % 4 == 3) {
      out.push_back(static_cast<char>(bits >> 16));
      out.push_back(static_cast<char>(bits >> 8));
      out.push_back(static_cast<char>(bits));
      bits = 0;
    }
  }
  out.resize(out.size() - padding);
  return out;
}

}  // namespace pare
