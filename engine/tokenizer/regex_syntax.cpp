#include "engine/tokenizer/regex_syntax.h"

#include <fmt/core.h>

#include <optional>

#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare {
namespace {

// \w of Oniguruma in Unicode mode; PCRE2's own is narrower.
constexpr std::string_view kWordClass = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
constexpr std::string_view kSimpleEscapes = "nrtfade";  // same meaning in both engines
constexpr std::string_view kAnchors = "AzZG";
constexpr std::string_view kPosixNames[] = {"alnum", "alpha", "ascii", "blank", "cntrl", "digit",  "graph",
                                            "lower", "print", "punct", "space", "upper", "xdigit", "word"};

bool is_hex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& path, const std::string& where)
      : pattern_(pattern), path_(path), where_(where) {}

  Result<std::string> run() {
    if (pattern_.size() > limits::kRegexPatternBytes) {
      return Error{.exit = Exit::unsupported,
                   .rule = "TK11",
                   .path = path_,
                   .where = where_,
                   .what = "pattern too long",
                   .got = std::to_string(pattern_.size()),
                   .limit = std::to_string(limits::kRegexPatternBytes)};
    }
    while (at_ < pattern_.size()) PARE_CHECK(item());
    if (depth_ > 0) return malformed(pattern_.size(), "group is not closed");
    return std::move(out_);
  }

 private:
  char peek(size_t ahead = 0) const { return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0'; }
  bool ahead(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  void copy(size_t bytes) {
    out_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }

  Error refused(size_t offset, std::string_view construct) const {
    return Error{.exit = Exit::unsupported,
                 .rule = "TK11",
                 .path = path_,
                 .where = where_,
                 .what = fmt::format("pattern uses a construct that is refused, {}, at pattern offset {}",
                                     construct, offset),
                 .got = quote(pattern_)};
  }
  Error malformed(size_t offset, std::string_view what) const {
    return Error{.exit = Exit::malformed,
                 .rule = "TK08",
                 .path = path_,
                 .where = where_,
                 .what = fmt::format("pattern does not compile: {} at pattern offset {}", what, offset),
                 .got = quote(pattern_)};
  }

  Status item() {
    switch (peek()) {
      case '\\':
        return escape(/*in_class=*/false);
      case '[':
        return character_class();
      case '(':
        return group();
      case ')':
        if (depth_ == 0) return malformed(at_, "unmatched closing parenthesis");
        --depth_;
        copy(1);
        return {};
      case '{':
        return repeat();
      default:
        copy(1);
        return {};
    }
  }

  // {n}, {n,}, {n,m} and {,m}; anything else in braces is literal text in both engines.
  Status repeat() {
    const size_t begin = at_;
    size_t end = at_ + 1;
    while (end < pattern_.size() && (is_digit(pattern_[end]) || pattern_[end] == ',')) ++end;
    const std::string_view body = pattern_.substr(begin + 1, end - begin - 1);
    const size_t comma = body.find(',');
    const bool is_repeat =
        end < pattern_.size() && pattern_[end] == '}' && !body.empty() && body != "," &&
        (comma == std::string_view::npos || body.find(',', comma + 1) == std::string_view::npos);
    if (!is_repeat) {
      out_ += "\\{";
      ++at_;
      return {};
    }
    const std::string_view low = body.substr(0, comma);
    const std::string_view high = comma == std::string_view::npos ? low : body.substr(comma + 1);
    for (std::string_view number : {low, high}) {
      const auto count = parse_uint(number);
      if (!number.empty() && (!count || *count > limits::kRegexRepeat)) {
        return Error{.exit = Exit::unsupported,
                     .rule = "TK11",
                     .path = path_,
                     .where = where_,
                     .what = fmt::format("repeat count too large at pattern offset {}", begin),
                     .got = sanitize(number.substr(0, 32)),
                     .limit = std::to_string(limits::kRegexRepeat)};
      }
    }
    at_ = end + 1;
    if (peek() == '+')
      return refused(begin, "\"+\" after a counted repeat");  // possessive here, a repeat there
    out_ += comma == std::string_view::npos ? fmt::format("{{{}}}", low)
                                            : fmt::format("{{{},{}}}", low.empty() ? "0" : low, high);
    return {};
  }

  Status group() {
    const size_t begin = at_;
    if (++depth_ > limits::kRegexNesting) {
      return Error{.exit = Exit::unsupported,
                   .rule = "TK11",
                   .path = path_,
                   .where = where_,
                   .what = fmt::format("groups nested too deeply at pattern offset {}", begin),
                   .got = std::to_string(depth_),
                   .limit = std::to_string(limits::kRegexNesting)};
    }
    if (ahead("(*")) return refused(begin, "verb (*");
    if (!ahead("(?")) {
      copy(1);
      return {};
    }
    for (std::string_view opening : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
      if (ahead(opening)) {
        copy(opening.size());
        return {};
      }
    }
    if (ahead("(?#")) return refused(begin, "comment (?#");
    if (ahead("(?C")) return refused(begin, "callout (?C");
    if (ahead("(?R") || ahead("(?&") || ahead("(?P>") || is_digit(peek(2)) ||
        ((peek(2) == '+' || peek(2) == '-') && is_digit(peek(3)))) {
      return refused(begin, "recursion (?R");
    }
    if (ahead("(?(")) return refused(begin, "conditional (?(");
    if (ahead("(?<") || ahead("(?P") || ahead("(?'")) return refused(begin, "named group");
    return inline_flags(begin);
  }

  // (?i), (?i-m:...): i means the same; m lets "." match line ends, which PCRE2 calls s.
  Status inline_flags(size_t begin) {
    out_ += "(?";
    at_ += 2;
    for (; at_ < pattern_.size() && peek() != ')' && peek() != ':'; ++at_) {
      const char flag = peek();
      if (flag == 'm') {
        out_ += 's';
      } else if (flag == 'i' || flag == '-') {
        out_ += flag;
      } else {
        return refused(begin, fmt::format("group (?{}", sanitize(pattern_.substr(begin + 2, 1))));
      }
    }
    if (at_ >= pattern_.size()) return malformed(begin, "group is not closed");
    if (peek() == ')') --depth_;
    copy(1);
    return {};
  }

  Status escape(bool in_class) {
    const size_t begin = at_;
    if (at_ + 1 >= pattern_.size()) return malformed(begin, "backslash at the end");
    const char kind = pattern_[at_ + 1];
    const auto replace = [this](std::string_view text) {
      out_ += text;
      at_ += 2;
      return Status();
    };
    if (!is_letter(kind) && !is_digit(kind)) {  // an escaped symbol, or the lead byte of a character
      copy(static_cast<unsigned char>(kind) < 0x80 ? 2 : 1);
      if (static_cast<unsigned char>(kind) >= 0x80) out_.pop_back();  // the backslash means nothing there
      return {};
    }
    if (kSimpleEscapes.find(kind) != std::string_view::npos) return replace(pattern_.substr(at_, 2));
    if (kind == 's') return replace(R"(\p{White_Space})");
    if (kind == 'S') return replace(R"(\P{White_Space})");
    if (kind == 'D') return replace(R"(\D)");
    if (kind == 'w') return replace(in_class ? std::string(kWordClass) : fmt::format("[{}]", kWordClass));
    if (kind == 'W' && !in_class) return replace(fmt::format("[^{}]", kWordClass));
    if (kind == 'p' || kind == 'P') return property(begin);
    if (kind == 'x' || kind == 'u') return code_point(begin, kind);
    if (!in_class) {
      if (kind == 'b') return replace(fmt::format("(?:(?<=[{0}])(?![{0}])|(?<![{0}])(?=[{0}]))", kWordClass));
      if (kind == 'B') return replace(fmt::format("(?:(?<=[{0}])(?=[{0}])|(?<![{0}])(?![{0}]))", kWordClass));
      if (kAnchors.find(kind) != std::string_view::npos) return replace(pattern_.substr(at_, 2));
      if (is_digit(kind) || kind == 'k' || kind == 'g')
        return refused(begin, fmt::format("back-reference \\{}", kind));
    }
    return refused(begin, fmt::format("escape \\{}", kind));
  }

  // \p{Name}, \P{Name}, \p{^Name}; which names exist is for the engine to say.
  Status property(size_t begin) {
    const size_t close = pattern_.find('}', at_);
    if (peek(2) != '{' || close == std::string_view::npos) return malformed(begin, "property without {name}");
    for (size_t i = at_ + 3; i < close; ++i) {
      const char c = pattern_[i];
      if (!is_letter(c) && !is_digit(c) && c != '_' && c != ' ' && c != '-' && c != '=' &&
          !(c == '^' && i == at_ + 3)) {
        return malformed(i, "bad property name");
      }
    }
    copy(close + 1 - at_);
    return {};
  }

  // \xHH, \x{H...} and \uHHHH, all written as \x{H...}.
  Status code_point(size_t begin, char kind) {
    size_t first = at_ + 2, last = first;
    const bool braces = kind == 'x' && peek(2) == '{';
    if (braces) first = last = at_ + 3;
    const size_t most = braces ? 8 : (kind == 'u' ? 4 : 2);
    while (last < pattern_.size() && last - first < most && is_hex(pattern_[last])) ++last;
    const bool complete = braces ? last < pattern_.size() && pattern_[last] == '}' && last > first
                                 : last - first == (kind == 'u' ? 4u : 2u);
    if (!complete) return malformed(begin, "bad character code");
    out_ += fmt::format("\\x{{{}}}", pattern_.substr(first, last - first));
    at_ = last + (braces ? 1 : 0);
    return {};
  }

  Status character_class() {
    const size_t begin = at_;
    copy(1);
    if (peek() == '^') copy(1);
    bool first = true;
    while (true) {
      if (at_ >= pattern_.size()) return malformed(begin, "class is not closed");
      const char c = peek();
      if (c == ']') {
        if (first) return refused(at_, "\"]\" first in a class");  // literal or empty: engines differ
        copy(1);
        return {};
      }
      first = false;
      if (c == '\\') {
        PARE_CHECK(escape(/*in_class=*/true));
      } else if (c == '[') {
        PARE_CHECK(posix_class());
      } else if (ahead("&&")) {
        return refused(at_, "class intersection &&");
      } else {
        copy(1);
      }
    }
  }

  Status posix_class() {
    const size_t close = pattern_.find(":]", at_);
    if (ahead("[:") && close != std::string_view::npos) {
      std::string_view name = pattern_.substr(at_ + 2, close - at_ - 2);
      if (name.starts_with('^')) name.remove_prefix(1);
      for (std::string_view known : kPosixNames) {
        if (name == known) {
          copy(close + 2 - at_);
          return {};
        }
      }
    }
    return refused(at_, "class inside a class");
  }

  std::string_view pattern_;
  const std::string& path_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
  uint64_t depth_ = 0;
};

}  // namespace

Result<std::string> translate_pattern(std::string_view pattern, const std::string& path,
                                      const std::string& where) {
  return Translator(pattern, path, where).run();
}

}  // namespace pare
