#include "engine/tokenizer/normalizers.h"

#include "engine/tokenizer/byte_level.h"

namespace pare {
namespace {

// Rebuilds a text character by character: put(out, code).
template <typename Put>
void rebuild(std::string& text, Put put) {
  std::string out;
  out.reserve(text.size() + 16);
  for (size_t i = 0; i < text.size();) {
    const unicode::Character character = unicode::decode_at(text.data() + i);
    put(out, character.code);
    i += character.bytes;
  }
  text.swap(out);
}

class UnicodeForm : public Normalizer {
 public:
  explicit UnicodeForm(unicode::Form form) : form_(form) {}
  Status apply(std::string& text) const override {
    text = unicode::normalize(text, form_);
    return {};
  }

 private:
  unicode::Form form_;
};

class Lowercase : public Normalizer {
 public:
  Status apply(std::string& text) const override {
    rebuild(text, unicode::append_lower);
    return {};
  }
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  Status apply(std::string& text) const override {
    const char* begin = text.data();
    const char* end = begin + text.size();
    while (left_ && begin < end && unicode::is_space(unicode::decode_at(begin).code)) {
      begin += unicode::decode_at(begin).bytes;
    }
    while (right_ && begin < end && unicode::is_space(unicode::decode_before(begin, end).code)) {
      end -= unicode::decode_before(begin, end).bytes;
    }
    text = std::string(begin, end);
    return {};
  }

 private:
  bool left_, right_;
};

class StripAccents : public Normalizer {
 public:
  Status apply(std::string& text) const override {
    rebuild(text, [](std::string& out, uint32_t code) {
      if (!unicode::is_mark(code)) unicode::append(out, code);
    });
    return {};
  }
};

class Replace : public Normalizer {
 public:
  explicit Replace(ReplaceRule rule) : rule_(std::move(rule)) {}
  Status apply(std::string& text) const override {
    std::string out;
    PARE_CHECK(rule_.apply(text, out));
    text.swap(out);
    return {};
  }

 private:
  ReplaceRule rule_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  Status apply(std::string& text) const override {
    if (!text.empty()) text.insert(0, prefix_);
    return {};
  }

 private:
  std::string prefix_;
};

// The clean-up of early neural translation systems: some controls dropped, odd spaces made plain.
class Nmt : public Normalizer {
 public:
  Status apply(std::string& text) const override {
    rebuild(text, [](std::string& out, uint32_t code) {
      const bool dropped = (code >= 0x01 && code <= 0x08) || code == 0x0B || (code >= 0x0E && code <= 0x1F) ||
                           code == 0x7F || code == 0x8F || code == 0x9F;
      const bool space = code == 0x09 || code == 0x0A || code == 0x0C || code == 0x0D || code == 0x1680 ||
                         (code >= 0x200B && code <= 0x200F) || code == 0x2028 || code == 0x2029 ||
                         code == 0x2581 || code == 0xFEFF || code == 0xFFFD;
      if (!dropped) unicode::append(out, space ? ' ' : code);
    });
    return {};
  }
};

class ByteLevelNormalizer : public Normalizer {
 public:
  Status apply(std::string& text) const override {
    text = byte_level::map(text);
    return {};
  }
};

bool is_cjk_ideograph(uint32_t code) {
  return (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0x3400 && code <= 0x4DBF) ||
         (code >= 0x20000 && code <= 0x2A6DF) || (code >= 0x2A700 && code <= 0x2B73F) ||
         (code >= 0x2B740 && code <= 0x2B81F) || (code >= 0x2B920 && code <= 0x2CEAF) ||
         (code >= 0xF900 && code <= 0xFAFF) || (code >= 0x2F800 && code <= 0x2FA1F);
}

class Bert : public Normalizer {
 public:
  explicit Bert(const BertOptions& options) : options_(options) {}
  Status apply(std::string& text) const override {
    rebuild(text, [this](std::string& out, uint32_t code) { clean(out, code); });
    if (options_.strip_accents) {
      text = unicode::normalize(text, unicode::Form::nfd);
      rebuild(text, [this](std::string& out, uint32_t code) {
        if (code >= 0x80 && unicode::is_nonspacing_mark(code)) return;
        put_lower(out, code);
      });
    } else if (options_.lowercase) {
      rebuild(text, [this](std::string& out, uint32_t code) { put_lower(out, code); });
    }
    return {};
  }

 private:
  void clean(std::string& out, uint32_t code) const {
    if (options_.clean_text) {
      const bool plain_control = code == '\t' || code == '\n' || code == '\r';
      if (code == 0 || code == 0xFFFD || (!plain_control && unicode::is_other(code))) return;
      if (unicode::is_space(code)) code = ' ';
    }
    const bool apart = options_.handle_chinese_chars && code >= 0x3400 && is_cjk_ideograph(code);
    if (apart) out += ' ';
    unicode::append(out, code);
    if (apart) out += ' ';
  }
  void put_lower(std::string& out, uint32_t code) const {
    if (options_.lowercase) {
      unicode::append_lower(out, code);
    } else {
      unicode::append(out, code);
    }
  }

  BertOptions options_;
};

class Precompiled : public Normalizer {
 public:
  explicit Precompiled(Charsmap map) : map_(std::move(map)) {}
  Status apply(std::string& text) const override {
    text = map_.apply(text);
    return {};
  }

 private:
  Charsmap map_;
};

}  // namespace

Status ReplaceRule::apply(std::string_view text, std::string& out) const {
  out.clear();
  out.reserve(text.size());
  if (regex == nullptr) {
    size_t copied = 0;
    for (size_t at = text.find(literal); at != std::string_view::npos; at = text.find(literal, copied)) {
      out += text.substr(copied, at - copied);
      out += content;
      copied = at + literal.size();
    }
    out += text.substr(copied);
    return {};
  }
  std::vector<Piece> matches;
  if (!text.empty()) PARE_CHECK(regex->find_all(text, matches));
  size_t copied = 0;
  for (const Piece& match : matches) {
    out += text.substr(copied, match.begin - copied);
    out += content;
    copied = match.end;
  }
  out += text.substr(copied);
  return {};
}

NormalizerStep make_unicode_form(unicode::Form form) {
  return std::make_unique<UnicodeForm>(form);
}
NormalizerStep make_lowercase() {
  return std::make_unique<Lowercase>();
}
NormalizerStep make_strip(bool left, bool right) {
  return std::make_unique<Strip>(left, right);
}
NormalizerStep make_strip_accents() {
  return std::make_unique<StripAccents>();
}
NormalizerStep make_replace(ReplaceRule rule) {
  return std::make_unique<Replace>(std::move(rule));
}
NormalizerStep make_prepend(std::string prefix) {
  return std::make_unique<Prepend>(std::move(prefix));
}
NormalizerStep make_nmt() {
  return std::make_unique<Nmt>();
}
NormalizerStep make_byte_level_normalizer() {
  return std::make_unique<ByteLevelNormalizer>();
}
NormalizerStep make_bert(const BertOptions& options) {
  return std::make_unique<Bert>(options);
}
NormalizerStep make_precompiled(Charsmap map) {
  return std::make_unique<Precompiled>(std::move(map));
}

}  // namespace pare
