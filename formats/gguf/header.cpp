#include "formats/gguf/header.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/gguf/cursor.h"
#include "formats/gguf/tensor_records.h"

namespace pare {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF numbers are read as they lie");

constexpr uint64_t kSmallestPair = 8 + 1 + 4 + 1;        // key of one byte, type, a byte
constexpr uint64_t kSmallestTensor = 8 + 1 + 4 + 4 + 8;  // name of one byte, rank 0, type, offset

class HeaderParser {
 public:
  HeaderParser(std::span<const std::byte> file, std::string_view path)
      : file_(file), path_(path), cursor_(file) {}

  Result<GgufHeader> parse() {
    PARE_CHECK(read_version());
    PARE_TRY(const uint64_t tensors, read_count("n_tensors", "GG07", kSmallestTensor));
    PARE_TRY(const uint64_t pairs, read_count("n_kv", "GG09", kSmallestPair));
    if (tensors > limits::kTensors)
      return over_cap("GG07", path_, "n_tensors", "tensor count is over the limit", tensors,
                      limits::kTensors);
    if (pairs > limits::kGgufPairs)
      return over_cap("GG09", path_, "n_kv", "pair count is over the limit", pairs, limits::kGgufPairs);
    for (uint64_t i = 0; i < pairs; ++i) PARE_CHECK(read_pair(i));
    PARE_CHECK(check_duplicate_keys());
    PARE_CHECK(read_alignment());
    PARE_CHECK(read_gguf_tensors(cursor_, tensors, path_, header_.tensors));
    PARE_CHECK(place_gguf_tensors(header_, cursor_.position(), file_.size(), path_));
    return std::move(header_);
  }

 private:
  Status read_version() {
    const auto magic = cursor_.take(kGgufMagic.size());
    if (!magic) {
      return malformed("GG01", path_, "magic", "file too short", std::to_string(file_.size()),
                       std::to_string(kGgufMagic.size()), "need");
    }
    if (gguf_text(*magic) != kGgufMagic)
      return malformed("GG03", path_, "magic", "not a GGUF file", quote(gguf_text(*magic)), "\"GGUF\"");
    const auto version = cursor_.number<uint32_t>();
    if (!version) {
      return malformed("GG02", path_, "version", "file too short", std::to_string(file_.size()), "24",
                       "need");
    }
    // A small number with its bytes the other way round.
    if ((*version & 0xffffu) == 0 && *version != 0) {
      return unsupported("GG05", path_, "version",
                         "byte order is big-endian; only little-endian files are read",
                         std::to_string(*version), "2 or 3");
    }
    if (*version != 2 && *version != kGgufVersion)
      return unsupported("GG04", path_, "version", "unknown version of the format", std::to_string(*version),
                         "2 or 3");
    return {};
  }

  // A count is believed only if the file could hold that many of the smallest.
  Result<uint64_t> read_count(const char* name, const char* rule, uint64_t smallest) {
    const auto count = cursor_.number<uint64_t>();
    if (!count)
      return malformed("GG02", path_, name, "file too short", std::to_string(file_.size()), "24", "need");
    if (*count > file_.size() / smallest) {
      const bool negative = *count > uint64_t{INT64_MAX};
      const char* id = !negative ? rule : std::string_view(rule) == "GG07" ? "GG06" : "GG08";
      return malformed(id, path_, name, "more than the file can hold", std::to_string(*count),
                       std::to_string(file_.size() / smallest), "limit");
    }
    return *count;
  }

  Status read_pair(uint64_t index) {
    GgufPair pair;
    PARE_CHECK(read_key(index, pair.key));
    const auto type = cursor_.number<uint32_t>();
    if (!type) return cut_off(pair.key, "type", sizeof(uint32_t));
    PARE_TRY(pair.type, value_type(pair.key, *type));
    PARE_CHECK(pair.type == GgufValueType::array ? read_array(pair)
                                                 : read_value(pair.key, pair.type, pair.bytes));
    header_.pairs.push_back(std::move(pair));
    return {};
  }

  Status read_key(uint64_t index, std::string& key) {
    const std::string where = fmt::format("kv {}", index);
    const auto length = cursor_.number<uint64_t>();
    if (!length) {
      return malformed("GG10", path_, where, "key length: file too short",
                       std::to_string(cursor_.remaining()), "8", "need");
    }
    if (*length == 0) return malformed("GG11", path_, where, "empty key");
    if (*length > cursor_.remaining()) {
      return malformed("GG10", path_, where, "key length is larger than what remains",
                       std::to_string(*length), std::to_string(cursor_.remaining()), "limit");
    }
    if (*length > limits::kGgufKeyBytes) {
      return malformed("GG14", path_, where, "key is too long", std::to_string(*length),
                       std::to_string(limits::kGgufKeyBytes), "limit");
    }
    key = gguf_text(*cursor_.take(*length));
    if (key.find('\0') != std::string::npos)
      return malformed("GG12", path_, where, "key with a zero byte", quote(key));
    if (!is_valid_utf8(key)) return malformed("GG13", path_, where, "key is not UTF-8", quote(key));
    return {};
  }

  Result<GgufValueType> value_type(const std::string& key, uint32_t type) const {
    if (type < kGgufValueTypes) return static_cast<GgufValueType>(type);
    return malformed("GG16", path_, quote(key), "unknown value type", std::to_string(type),
                     fmt::format("0 to {}", kGgufValueTypes - 1));
  }

  Status read_value(const std::string& key, GgufValueType type, std::span<const std::byte>& bytes) {
    if (type == GgufValueType::string) return read_string(key, bytes);
    const uint64_t width = gguf_scalar_bytes(type);
    const auto taken = cursor_.take(width);
    if (!taken) return cut_off(key, "value", width);
    bytes = *taken;
    if (type == GgufValueType::boolean) return check_booleans(key, bytes);
    return {};
  }

  Status read_string(const std::string& key, std::span<const std::byte>& bytes) {
    const auto length = cursor_.number<uint64_t>();
    if (!length) return cut_off(key, "string length", sizeof(uint64_t));
    if (*length > cursor_.remaining()) {
      return malformed(*length > uint64_t{INT64_MAX} ? "GG18" : "GG17", path_, quote(key),
                       "string length is larger than what remains", std::to_string(*length),
                       std::to_string(cursor_.remaining()), "limit");
    }
    if (*length > limits::kGgufStringBytes) {
      return over_cap("GG17", path_, quote(key), "string is over the limit", *length,
                      limits::kGgufStringBytes);
    }
    bytes = *cursor_.take(*length);
    return {};
  }

  Status read_array(GgufPair& pair) {
    const auto element = cursor_.number<uint32_t>();
    const auto count = cursor_.number<uint64_t>();
    if (!element || !count) return cut_off(pair.key, "array", 12);
    PARE_TRY(pair.element, value_type(pair.key, *element));
    pair.count = *count;
    if (pair.element == GgufValueType::array) return nested(pair.key);
    const bool strings = pair.element == GgufValueType::string;
    const uint64_t smallest = strings ? sizeof(uint64_t) : gguf_scalar_bytes(pair.element);
    if (*count > cursor_.remaining() / smallest) {
      return malformed(strings ? "GG20" : "GG19", path_, quote(pair.key), "array is larger than what remains",
                       std::to_string(*count), std::to_string(cursor_.remaining() / smallest), "limit");
    }
    if (*count > limits::kGgufArrayItems) {
      return over_cap("GG19", path_, quote(pair.key), "array is over the limit", *count,
                      limits::kGgufArrayItems);
    }
    const size_t begin = cursor_.position();
    if (strings) {
      std::span<const std::byte> text;
      for (uint64_t i = 0; i < *count; ++i) PARE_CHECK(read_string(pair.key, text));
    } else {
      cursor_.take(*count * smallest);  // fits, as just checked
    }
    pair.bytes = file_.subspan(begin, cursor_.position() - begin);
    return pair.element == GgufValueType::boolean ? check_booleans(pair.key, pair.bytes) : Status();
  }

  // Arrays of arrays: walked without recursion, only to tell a file that somebody could use from one that
  // nobody could.
  Status nested(const std::string& key) {
    for (uint64_t depth = 2; depth <= limits::kJsonDepth; ++depth) {
      const auto element = cursor_.number<uint32_t>();
      const auto count = cursor_.number<uint64_t>();
      if (!element || !count) return cut_off(key, "array", 12);
      if (*element != static_cast<uint32_t>(GgufValueType::array))
        return unsupported("GG21", path_, quote(key), "arrays of arrays are not supported",
                           fmt::format("{} levels", depth), "1 level");
    }
    return malformed("GG21", path_, quote(key), "arrays nest too deep",
                     fmt::format("more than {} levels", limits::kJsonDepth), "1 level");
  }

  Status check_booleans(const std::string& key, std::span<const std::byte> bytes) const {
    for (const std::byte byte : bytes) {
      if (byte <= std::byte{1}) continue;
      return malformed("GG22", path_, quote(key), "not a boolean", std::to_string(unsigned(byte)), "0 or 1");
    }
    return {};
  }

  Status check_duplicate_keys() const {
    std::vector<size_t> order(header_.pairs.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const auto key = [this](size_t i) -> const std::string& { return header_.pairs[i].key; };
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key(a) < key(b); });
    const auto twice =
        std::adjacent_find(order.begin(), order.end(), [&](size_t a, size_t b) { return key(a) == key(b); });
    if (twice == order.end()) return {};
    return malformed("GG15", path_, quote(key(*twice)), "key stands twice");
  }

  Status read_alignment() {
    const GgufPair* pair = header_.find("general.alignment");
    if (pair == nullptr) return {};
    const auto bad = [&](std::string got) {
      return malformed("GG23", path_, "general.alignment", "not a power of two that pare accepts",
                       std::move(got), fmt::format("u32, 1 to {}", limits::kGgufAlignment));
    };
    if (pair->type != GgufValueType::u32) return bad(std::string(gguf_value_type_name(pair->type)));
    uint32_t value = 0;
    std::memcpy(&value, pair->bytes.data(), sizeof value);
    if (!std::has_single_bit(value) || value > limits::kGgufAlignment) return bad(std::to_string(value));
    header_.alignment = value;
    return {};
  }

  Error cut_off(const std::string& key, const char* what, uint64_t need) const {
    return malformed("GG17", path_, quote(key), fmt::format("file ends inside the {}", what),
                     std::to_string(cursor_.remaining()), std::to_string(need), "need");
  }

  std::span<const std::byte> file_;
  std::string_view path_;
  GgufCursor cursor_;
  GgufHeader header_;
};

}  // namespace

std::string_view gguf_value_type_name(GgufValueType type) {
  static constexpr std::array<std::string_view, kGgufValueTypes> kNames{
      "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<size_t>(type)];
}

uint64_t gguf_scalar_bytes(GgufValueType type) {
  static constexpr std::array<uint64_t, kGgufValueTypes> kBytes{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kBytes[static_cast<size_t>(type)];
}

const GgufPair* GgufHeader::find(std::string_view key) const {
  for (const GgufPair& pair : pairs)
    if (pair.key == key) return &pair;
  return nullptr;
}

Result<GgufHeader> parse_gguf(std::span<const std::byte> file, std::string_view path) {
  return HeaderParser(file, path).parse();
}

}  // namespace pare
