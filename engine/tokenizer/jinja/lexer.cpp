#include "engine/tokenizer/jinja/lexer.h"

#include <fmt/core.h>

#include <array>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tokenizer/unicode.h"

namespace pare::jinja {
namespace {

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

// Line ends become \n, and one at the very end is dropped.
std::string normalized(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      text += '\n';
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  Lexer(std::string source, const std::string& path) : source_(std::move(source)), path_(path) {}

  Result<std::vector<Token>> run() {
    while (at_ < source_.size()) PARE_CHECK(data_and_tag());
    push(TokenKind::end, {}, position());
    return std::move(tokens_);
  }

 private:
  Position position() const { return here_; }
  bool looking_at(std::string_view word) const {
    return std::string_view(source_).substr(at_).starts_with(word);
  }
  void skip(size_t count) {
    for (size_t i = 0; i < count; ++i, ++at_) {
      if (source_[at_] == '\n') {
        ++here_.line;
        here_.column = 1;
      } else {
        ++here_.column;
      }
    }
  }
  void skip_spaces() {
    while (at_ < source_.size() && is_space(source_[at_])) skip(1);
  }
  void push(TokenKind kind, std::string text, Position at) { tokens_.push_back({kind, std::move(text), at}); }
  Error syntax(std::string what, std::string got = {}) const {
    return template_error(Exit::malformed, "CT03", path_, position(), std::move(what), std::move(got));
  }

  // Text up to the next tag, with the white space removed that the tag asks for; then the tag.
  Status data_and_tag() {
    const Position start = position();
    const std::string_view rest = std::string_view(source_).substr(at_);
    size_t open = rest.find('{');
    while (open != std::string_view::npos &&
           (open + 1 >= rest.size() ||
            (rest[open + 1] != '{' && rest[open + 1] != '%' && rest[open + 1] != '#')))
      open = rest.find('{', open + 1);
    if (open == std::string_view::npos) {
      push_data(std::string(rest), start);
      skip(rest.size());
      return {};
    }
    const char kind = rest[open + 1];
    const char sign = open + 2 < rest.size() ? rest[open + 2] : '\0';
    push_data(strip_end(std::string(rest.substr(0, open)), kind, sign), start);
    skip(open);
    if (kind == '#') return comment();
    const Position tag = position();
    skip(2);
    if (sign == '-' || sign == '+') skip(1);
    if (kind == '%' && is_raw_begin()) return raw();
    push(kind == '%' ? TokenKind::block_begin : TokenKind::variable_begin, {}, tag);
    return inside(kind);
  }

  void push_data(std::string text, Position at) {
    if (!text.empty()) push(TokenKind::data, std::move(text), at);
  }

  // `-` strips all white space before a tag; a block or comment alone on its line loses its indentation.
  std::string strip_end(std::string text, char kind, char sign) const {
    if (sign == '-') {
      while (!text.empty() && is_space(text.back())) text.pop_back();
      return text;
    }
    if (sign == '+' || kind == '{') return text;
    const size_t line_end = text.rfind('\n');
    const size_t line = line_end == std::string::npos ? 0 : line_end + 1;
    if (line == 0 && !line_starting_) return text;
    for (size_t i = line; i < text.size(); ++i)
      if (!is_space(text[i])) return text;
    text.resize(line);
    return text;
  }

  // After the closing mark of a tag: `-` eats white space, a block or comment eats one line end.
  void close(char sign, char kind) {
    const size_t before = at_;
    if (sign == '-') {
      skip_spaces();
    } else if (sign != '+' && kind != '{' && at_ < source_.size() && source_[at_] == '\n') {
      skip(1);
    }
    line_starting_ = at_ > before && source_[at_ - 1] == '\n';
  }

  Status comment() {
    const size_t end = source_.find("#}", at_ + 2);
    if (end == std::string::npos) return syntax("comment is not closed");
    const char sign = end > at_ + 2 ? source_[end - 1] : '\0';
    skip(end + 2 - at_);
    close(sign == '-' || sign == '+' ? sign : '\0', '#');
    return {};
  }

  bool is_raw_begin() const {
    size_t i = at_;
    while (i < source_.size() && is_space(source_[i])) ++i;
    if (source_.compare(i, 3, "raw") != 0) return false;
    i += 3;
    while (i < source_.size() && is_space(source_[i])) ++i;
    return source_.compare(i, 2, "%}") == 0 || source_.compare(i, 3, "-%}") == 0;
  }

  Status raw() {
    const size_t close_mark = source_.find("%}", at_);
    const bool strips = source_[close_mark - 1] == '-';
    skip(close_mark + 2 - at_);
    if (strips) skip_spaces();
    line_starting_ = strips && source_[at_ - 1] == '\n';
    const Position start = position();
    const size_t begin = at_;
    for (size_t open = source_.find("{%", at_); open != std::string::npos;
         open = source_.find("{%", open + 2)) {
      size_t i = open + 2;
      const char sign = i < source_.size() && (source_[i] == '-' || source_[i] == '+') ? source_[i++] : '\0';
      while (i < source_.size() && is_space(source_[i])) ++i;
      if (source_.compare(i, 6, "endraw") != 0) continue;
      i += 6;
      while (i < source_.size() && is_space(source_[i])) ++i;
      const char end_sign =
          i < source_.size() && (source_[i] == '-' || source_[i] == '+') ? source_[i++] : '\0';
      if (source_.compare(i, 2, "%}") != 0) continue;
      push_data(strip_end(source_.substr(begin, open - begin), '%', sign), start);
      skip(i + 2 - at_);
      close(end_sign, '%');
      return {};
    }
    return syntax("raw block is not closed");
  }

  // Tokens up to the closing mark of the tag.
  Status inside(char kind) {
    const std::string_view closing = kind == '%' ? "%}" : "}}";
    std::string brackets;
    for (;;) {
      skip_spaces();
      if (at_ >= source_.size()) return syntax("tag is not closed");
      if (brackets.empty()) {
        const bool has_sign = source_[at_] == '-' || (source_[at_] == '+' && kind == '%');
        if (looking_at(closing) ||
            (has_sign && std::string_view(source_).substr(at_ + 1).starts_with(closing))) {
          const Position end = position();
          const char sign = looking_at(closing) ? '\0' : source_[at_];
          skip(sign == '\0' ? 2 : 3);
          close(sign, kind);
          push(kind == '%' ? TokenKind::block_end : TokenKind::variable_end, {}, end);
          return {};
        }
      }
      PARE_CHECK(token(brackets));
    }
  }

  Status token(std::string& brackets) {
    const char c = source_[at_];
    if (is_name_start(c)) return name();
    if (is_digit(c)) return number();
    if (c == '\'' || c == '"') return string_literal();
    return symbol(brackets);
  }

  Status name() {
    const Position at = position();
    size_t end = at_;
    while (end < source_.size() && (is_name_start(source_[end]) || is_digit(source_[end]))) ++end;
    push(TokenKind::name, source_.substr(at_, end - at_), at);
    skip(end - at_);
    return {};
  }

  Status number() {
    const Position at = position();
    std::string digits;
    size_t i = at_;
    const auto take_digits = [&] {
      while (i < source_.size() && (is_digit(source_[i]) || (source_[i] == '_' && i + 1 < source_.size() &&
                                                             is_digit(source_[i + 1])))) {
        if (source_[i] != '_') digits += source_[i];
        ++i;
      }
    };
    take_digits();
    bool is_real = false;
    if (i + 1 < source_.size() && source_[i] == '.' && is_digit(source_[i + 1])) {
      is_real = true;
      digits += source_[i++];
      take_digits();
    }
    if (i < source_.size() && (source_[i] == 'e' || source_[i] == 'E')) {
      size_t exponent = i + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      if (exponent < source_.size() && is_digit(source_[exponent])) {
        is_real = true;
        digits.append(source_, i, exponent - i);
        i = exponent;
        take_digits();
      }
    }
    if (i < source_.size() && is_name_start(source_[i])) return syntax("number runs into a name");
    push(is_real ? TokenKind::real : TokenKind::integer, std::move(digits), at);
    skip(i - at_);
    return {};
  }

  Status string_literal() {
    const Position at = position();
    const char quote = source_[at_];
    std::string text;
    size_t i = at_ + 1;
    for (; i < source_.size() && source_[i] != quote; ++i) {
      if (source_[i] != '\\') {
        text += source_[i];
        continue;
      }
      if (++i >= source_.size()) break;
      PARE_CHECK(escape(i, text));
    }
    if (i >= source_.size()) return syntax("string is not closed");
    push(TokenKind::string, std::move(text), at);
    skip(i + 1 - at_);
    return {};
  }

  // The character after a backslash, at source_[i]; leaves i at its last byte.
  Status escape(size_t& i, std::string& text) {
    constexpr std::string_view kLetters = "abfnrtv\\'\"", kMeanings = "\a\b\f\n\r\t\v\\'\"";
    const char c = source_[i];
    if (const size_t known = kLetters.find(c); known != std::string_view::npos) {
      text += kMeanings[known];
      return {};
    }
    if (c == '\n') return {};
    const size_t wanted = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t code = 0;
    if (wanted > 0) {
      for (size_t k = 1; k <= wanted; ++k) {
        const char h = i + k < source_.size() ? source_[i + k] : '\0';
        const int digit = is_digit(h)            ? h - '0'
                          : h >= 'a' && h <= 'f' ? h - 'a' + 10
                          : h >= 'A' && h <= 'F' ? h - 'A' + 10
                                                 : -1;
        if (digit < 0) return syntax("escape needs hexadecimal digits", fmt::format("\\{}", c));
        code = code << 4 | uint32_t(digit);
      }
      i += wanted;
    } else if (c >= '0' && c <= '7') {
      size_t k = 0;
      for (; k < 3 && i + k < source_.size() && source_[i + k] >= '0' && source_[i + k] <= '7'; ++k)
        code = code * 8 + uint32_t(source_[i + k] - '0');
      i += k - 1;
    } else {
      text += '\\';  // not an escape: both characters stay
      text += c;
      return {};
    }
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
      return syntax("escape is not a character", fmt::format("U+{:04X}", code));
    }
    unicode::append(text, code);
    return {};
  }

  Status symbol(std::string& brackets) {
    constexpr std::array<std::string_view, 26> kSymbols = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                           "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                           ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (const std::string_view symbol : kSymbols) {
      if (!looking_at(symbol)) continue;
      const char c = symbol[0];
      if (c == '(' || c == '[' || c == '{') brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
      if (brackets.size() > limits::kTemplateNesting) {
        return template_error(Exit::resource, "CT07", path_, position(), "nested too deeply",
                              fmt::format("{}", brackets.size()),
                              fmt::format("{}", limits::kTemplateNesting));
      }
      if (c == ')' || c == ']' || c == '}') {
        if (brackets.empty() || brackets.back() != c) {
          return syntax("bracket does not match", fmt::format("{}", c));
        }
        brackets.pop_back();
      }
      push(TokenKind::symbol, std::string(symbol), position());
      skip(symbol.size());
      return {};
    }
    return syntax("unexpected character",
                  quote(source_.substr(at_, unicode::decode_at(source_.data() + at_).bytes)));
  }

  const std::string source_;
  const std::string& path_;
  size_t at_ = 0;
  Position here_;
  bool line_starting_ = true;  // the text before `at_` ends a line, or there is none
  std::vector<Token> tokens_;
};

}  // namespace

std::string position_text(Position at) {
  return fmt::format("{}:{}", at.line, at.column);
}

Error template_error(Exit exit, const char* rule, const std::string& path, Position at, std::string what,
                     std::string got, std::string limit) {
  return Error{.exit = exit,
               .rule = rule,
               .path = path,
               .where = position_text(at),
               .what = std::move(what),
               .got = std::move(got),
               .limit = std::move(limit)};
}

Result<std::vector<Token>> tokenize(std::string_view source, const std::string& path) {
  if (source.size() > limits::kTemplateBytes) {
    return template_error(Exit::resource, "TK18", path, {}, "chat template too large",
                          fmt::format("{}", source.size()), fmt::format("{}", limits::kTemplateBytes));
  }
  if (const size_t bad = first_invalid_utf8(source)) {
    Error error = template_error(Exit::malformed, "CT02", path, {}, "chat template is not UTF-8");
    error.where = fmt::format("byte {}", bad - 1);
    return error;
  }
  return Lexer(normalized(source), path).run();
}

}  // namespace pare::jinja
