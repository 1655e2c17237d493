#include "engine/core/text.h"

#include <fmt/core.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "engine/core/limits.h"
#include "engine/core/printable.h"

namespace pare {
namespace {

template <typename T>
std::optional<T> parse_whole(std::string_view text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || stop != end) return std::nullopt;
  return value;
}

// Distance of Damerau and Levenshtein (optimal alignment): insert, delete, replace, swap of neighbours.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> two_back(b.size() + 1), previous(b.size() + 1), current(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) previous[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        current[j] = std::min(current[j], two_back[j - 2] + 1);
      }
    }
    std::swap(two_back, previous);
    std::swap(previous, current);
  }
  return previous[b.size()];
}

}  // namespace

std::string sanitize(std::string_view text) {
  std::string out;
  append_printable(out, text, Backslash::doubled, std::numeric_limits<size_t>::max());
  return out;
}

std::string quote(std::string_view text) {
  std::string out = "\"";
  const bool whole = append_printable(out, text, Backslash::doubled, limits::kErrorNameBytes);
  if (!whole) out += "\xe2\x80\xa6";
  out += '"';
  return out;
}

std::optional<int64_t> parse_int(std::string_view text) {
  return parse_whole<int64_t>(text);
}
std::optional<uint64_t> parse_uint(std::string_view text) {
  return parse_whole<uint64_t>(text);
}

std::optional<double> parse_double(std::string_view text) {
  const std::optional<double> value = parse_whole<double>(text);
  if (!value || !std::isfinite(*value)) return std::nullopt;
  return value;
}

std::optional<uint64_t> parse_bytes(std::string_view text) {
  struct Unit {
    const char* name;  // lower case
    uint64_t bytes;
  };
  constexpr std::array<Unit, 9> kUnits{{{"b", 1},
                                        {"kb", 1'000},
                                        {"mb", 1'000'000},
                                        {"gb", 1'000'000'000},
                                        {"tb", 1'000'000'000'000},
                                        {"kib", 1ull << 10},
                                        {"mib", 1ull << 20},
                                        {"gib", 1ull << 30},
                                        {"tib", 1ull << 40}}};
  const size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  const std::string_view number = text.substr(0, digits);
  std::string suffix(text.substr(digits));
  if (!suffix.empty() && suffix.front() == ' ') suffix.erase(0, 1);
  if (suffix.empty() && digits != text.size()) return std::nullopt;
  for (char& c : suffix) c = (c >= 'A' && c <= 'Z') ? static_cast<char>(c - 'A' + 'a') : c;
  uint64_t unit = 1;
  if (!suffix.empty()) {
    const auto found =
        std::find_if(kUnits.begin(), kUnits.end(), [&](const Unit& u) { return suffix == u.name; });
    if (found == kUnits.end()) return std::nullopt;
    unit = found->bytes;
  }
  if (const auto whole = parse_uint(number)) {
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(*whole, unit, &bytes)) return std::nullopt;
    return bytes;
  }
  if (number.empty() || number.front() == '.' || number.back() == '.' || unit == 1) return std::nullopt;
  const auto fraction = parse_double(number);
  if (!fraction) return std::nullopt;
  const double bytes = *fraction * static_cast<double>(unit);
  if (bytes >= 18446744073709551616.0) return std::nullopt;
  return static_cast<uint64_t>(bytes);
}

std::string format_bytes(uint64_t bytes) {
  constexpr std::array<const char*, 7> kUnits = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  if (bytes < 1000) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  // 999.95 would be printed as 1000.0, so it already belongs to the next unit.
  while (value >= 999.95 && unit + 1 < kUnits.size()) {
    value /= 1000.0;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string format_count(uint64_t count) {
  std::string text = std::to_string(count);
  for (size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, 1, ',');
  return text;
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "unknown";
  if (seconds < 9.995) return fmt::format("{:.2f} s", seconds);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  if (seconds > 1e15) return "unknown";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string format_utc(int64_t seconds_since_1970) {
  const time_t seconds = seconds_since_1970;
  struct tm parts {};
  std::array<char, 32> text{};
  if (::gmtime_r(&seconds, &parts) == nullptr || parts.tm_year < -900 || parts.tm_year > 8099) return {};
  return std::string(text.data(), ::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts));
}

std::string format_double(double value) {
  std::array<char, 32> buffer{};
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return error == std::errc{} ? std::string(buffer.data(), end) : std::string();
}

size_t first_invalid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    // Eight ASCII bytes at a time: nearly all text that we check is ASCII.
    if (uint64_t word = 0; text.size() - i >= 8) {
      std::memcpy(&word, text.data() + i, 8);
      if ((word & 0x8080808080808080ull) == 0) {
        i += 8;
        continue;
      }
    }
    char32_t code = 0;
    const size_t length = decode_utf8(text.substr(i), code);
    if (length == 0) return i + 1;
    i += length;
  }
  return 0;
}

std::string nearest_word(std::string_view word, const std::string* first, const std::string* last) {
  constexpr size_t kLongestWord = 256;  // the distance is quadratic; nobody mistypes a longer option
  if (word.size() > kLongestWord) return {};
  const std::string* best = nullptr;
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string* candidate = first; candidate != last; ++candidate) {
    if (candidate->size() > kLongestWord) continue;
    const size_t distance = edit_distance(word, *candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best == nullptr ? std::string() : *best;
}

}  // namespace pare
