#include "engine/tokenizer/charsmap.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <set>

namespace pare {
namespace {

// Builds a double array by first fit, with the units of Darts-clone; offsets stay below 2^21.
class TrieBuilder {
 public:
  explicit TrieBuilder(const std::map<std::string, uint32_t>& keys)
      : keys_(keys), units_(1 << 16), used_(1 << 16) {
    used_[0] = true;
    place(0, "");
  }
  std::string bytes() const {
    return {reinterpret_cast<const char*>(units_.data()), units_.size() * sizeof(uint32_t)};
  }

 private:
  void place(uint32_t node, const std::string& prefix) {
    std::vector<uint32_t> labels;
    for (uint32_t label = 1; label < 256; ++label) {
      const std::string next = prefix + static_cast<char>(label);
      const auto found = keys_.lower_bound(next);
      if (found != keys_.end() && found->first.starts_with(next)) labels.push_back(label);
    }
    const auto value = keys_.find(prefix);
    const bool is_key = value != keys_.end();
    uint32_t base = 256;
    const auto fits = [&] {
      if (bases_.contains(base)) return false;  // children of two nodes must not be mistaken for each other
      if (is_key && used_[base]) return false;
      for (uint32_t label : labels) {
        if (used_[base ^ label]) return false;
      }
      return true;
    };
    while (!fits()) ++base;
    bases_.insert(base);
    units_[node] |= (node ^ base) << 10;
    if (is_key) {
      units_[node] |= 0x100;
      units_[base] = value->second | 0x80000000u;
      used_[base] = true;
    }
    for (uint32_t label : labels) {
      units_[base ^ label] |= label;
      used_[base ^ label] = true;
    }
    for (uint32_t label : labels) place(base ^ label, prefix + static_cast<char>(label));
  }

  const std::map<std::string, uint32_t>& keys_;
  std::vector<uint32_t> units_;
  std::vector<bool> used_;
  std::set<uint32_t> bases_;
};

std::string blob_of(const std::string& trie, const std::string& strings) {
  const auto size = static_cast<uint32_t>(trie.size());
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + trie + strings;
}
std::string blob_of(const std::map<std::string, std::string>& rules) {
  std::map<std::string, uint32_t> keys;
  std::string strings;
  for (const auto& [from, to] : rules) {
    keys[from] = static_cast<uint32_t>(strings.size());
    strings += to + '\0';
  }
  return blob_of(TrieBuilder(keys).bytes(), strings);
}
Result<Charsmap> parse(const std::string& blob) {
  return Charsmap::parse(blob, "m/tokenizer.json", "normalizer");
}

TEST(Charsmap, ReplacesCharactersAndClusters) {
  const auto map = parse(blob_of(
      {{"\u00bd", "1/2"}, {"e\u0301", "\u00e9"}, {"\u3000", " "}, {"\u00ad", ""}, {"\U0001F468", "man"}}));
  ASSERT_TRUE(map) << format_error(map.error());
  EXPECT_EQ(map->apply("a\u00bdb"), "a1/2b");
  EXPECT_EQ(map->apply("cafe\u0301!"), "caf\u00e9!");  // a cluster of three bytes, looked up whole
  EXPECT_EQ(map->apply("\u3000x\u00ady"), " xy");
  EXPECT_EQ(map->apply("\U0001F468\u200d\U0001F469"),
            "man\u200d\U0001F469");  // longer than five bytes: by character
  EXPECT_EQ(map->apply(""), "");
  EXPECT_EQ(map->apply("plain"), "plain");
}

TEST(Charsmap, TheShortestKeyDecides) {
  const auto map = parse(blob_of({{"a", "x"}, {"a\u0301", "y"}}));
  ASSERT_TRUE(map);
  EXPECT_EQ(map->replacement("a\u0301"), "x");
}

TEST(Charsmap, RefusesEveryBrokenMap) {
  const std::string good = blob_of({{"a", "b"}, {"cd", "e"}});
  ASSERT_TRUE(parse(good));
  const auto refused = [](const std::string& blob, std::string_view what) {
    const auto map = parse(blob);
    ASSERT_FALSE(map) << what;
    EXPECT_EQ(map.error().exit, Exit::malformed);
    EXPECT_EQ(map.error().rule, "TK16");
    const std::string line = format_error(map.error());
    EXPECT_NE(line.find("precompiled_charsmap"), std::string::npos) << line;
    EXPECT_NE(line.find("offset"), std::string::npos) << line;
    EXPECT_NE(line.find(what), std::string::npos) << line;
  };
  for (size_t size = 0; size < 4; ++size) refused(good.substr(0, size), "too short");
  refused(good.substr(0, 100), "trie is larger");
  refused(blob_of("", std::string(1, '\0')), "units");
  refused(blob_of("abc", std::string(1, '\0')), "units");
  refused(good.substr(0, good.size() - 1), "NUL");
  refused(good.substr(0, good.size() - 4), "strings");
  refused(blob_of(good.substr(4, 1 << 18), std::string("\xFF\0", 2)), "UTF-8");
  const auto unit = [](uint32_t value) { return std::string(reinterpret_cast<const char*>(&value), 4); };
  // The root's children would lie at 2^20; at 1 a value beyond the strings; the children of unit 1 hold
  // unit 1.
  refused(blob_of(unit(1u << 30) + unit(0), std::string(1, '\0')), "outside the array");
  refused(blob_of(unit(1u << 10 | 0x100) + unit(0x80000005u), std::string(1, '\0')), "outside the strings");
  refused(blob_of(unit(0) + unit(1u << 10 | 1), std::string(1, '\0')), "cycle");
  refused(blob_of(unit(1u << 10 | 0x100) + unit(0x80000001u), std::string("\u00e9\0", 3)),
          "inside a character");
}

TEST(Base64, Decodes) {
  EXPECT_EQ(decode_base64(""), "");
  EXPECT_EQ(decode_base64("Zm9vYmFy"), "foobar");  // RFC 4648, section 10
  EXPECT_EQ(decode_base64("Zm9vYg=="), "foob");
  EXPECT_EQ(decode_base64("Zm9vYmE="), "fooba");
  for (const char* bad : {"Z", "Zg", "Zg=", "Z===", "Zg==Zg==", "Zm9v\n", "Zm-v"}) {
    EXPECT_EQ(decode_base64(bad), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace pare
