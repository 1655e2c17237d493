#include "engine/tokenizer/pre_tokenizers.h"

#include <array>

#include "engine/tokenizer/byte_level.h"
#include "engine/tokenizer/unicode.h"

namespace pare {
namespace {

// Cuts every piece: cut(piece, out) appends its parts.
template <typename Cut>
Status cut_each(PieceList& list, Cut cut) {
  std::vector<Piece> out;
  out.reserve(list.pieces.size());
  for (const Piece& piece : list.pieces) PARE_CHECK(cut(piece, out));
  if (list.at_start && !out.empty() && out.front().begin != list.pieces.front().begin) list.at_start = false;
  list.pieces.swap(out);
  return {};
}

// Rewrites every piece: write(piece, is_first, text) appends its new text.
template <typename Write>
void rewrite_each(PieceList& list, Write write) {
  std::string text;
  text.reserve(list.text.size() + list.text.size() / 4);
  for (size_t i = 0; i < list.pieces.size(); ++i) {
    const size_t begin = text.size();
    write(list.pieces[i].of(list.text), i == 0, text);
    list.pieces[i] = {begin, text.size()};
  }
  list.owned.swap(text);
  list.text = list.owned;
}

class PrefixSpace : public PreTokenizer {
 public:
  Status apply(PieceList& list) const override {
    rewrite_each(list, [](std::string_view piece, bool, std::string& text) {
      if (!piece.starts_with(' ')) text += ' ';
      text += piece;
    });
    return {};
  }
};

class ByteMap : public PreTokenizer {
 public:
  Status apply(PieceList& list) const override {
    rewrite_each(list, [](std::string_view piece, bool, std::string& text) {
      byte_level::append_mapped(text, piece);
    });
    return {};
  }
};

class ScannerSplit : public PreTokenizer {
 public:
  explicit ScannerSplit(PatternScanner scanner) : scanner_(scanner) {}
  const PatternScanner* scanner() const override { return &scanner_; }
  Status apply(PieceList& list) const override {
    return cut_each(list, [&](Piece piece, std::vector<Piece>& out) -> Status {
      const std::string_view text = piece.of(list.text);
      std::array<Piece, 256> found;
      for (size_t at = 0; at < text.size();) {
        const size_t count = scanner_.scan(text, at, found);
        for (size_t i = 0; i < count; ++i) {
          out.push_back({piece.begin + found[i].begin, piece.begin + found[i].end});
        }
        at = found[count - 1].end;
      }
      return {};
    });
  }

 private:
  PatternScanner scanner_;
};

class RegexSplit : public PreTokenizer {
 public:
  RegexSplit(std::shared_ptr<const Regex> regex, SplitBehavior behavior, bool invert)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {}
  Status apply(PieceList& list) const override {
    std::vector<Piece> matches;
    return cut_each(list, [&](Piece piece, std::vector<Piece>& out) -> Status {
      matches.clear();
      PARE_CHECK(regex_->find_all(piece.of(list.text), matches));
      for (Piece& match : matches) match = {piece.begin + match.begin, piece.begin + match.end};
      split_by_matches(piece, matches, behavior_, invert_, out);
      return {};
    });
  }

 private:
  std::shared_ptr<const Regex> regex_;
  SplitBehavior behavior_;
  bool invert_;
};

class LiteralSplit : public PreTokenizer {
 public:
  LiteralSplit(std::string literal, SplitBehavior behavior, bool invert)
      : literal_(std::move(literal)), behavior_(behavior), invert_(invert) {}
  Status apply(PieceList& list) const override {
    std::vector<Piece> matches;
    return cut_each(list, [&](Piece piece, std::vector<Piece>& out) -> Status {
      const std::string_view text = piece.of(list.text);
      matches.clear();
      for (size_t at = text.find(literal_); at != std::string_view::npos;
           at = text.find(literal_, at + literal_.size())) {
        matches.push_back({piece.begin + at, piece.begin + at + literal_.size()});
      }
      split_by_matches(piece, matches, behavior_, invert_, out);
      return {};
    });
  }

 private:
  std::string literal_;
  SplitBehavior behavior_;
  bool invert_;
};

class ClassSplit : public PreTokenizer {
 public:
  ClassSplit(bool (*is_match)(uint32_t), SplitBehavior behavior) : is_match_(is_match), behavior_(behavior) {}
  Status apply(PieceList& list) const override {
    std::vector<Piece> matches;
    return cut_each(list, [&](Piece piece, std::vector<Piece>& out) -> Status {
      matches.clear();
      for (size_t i = piece.begin; i < piece.end;) {
        const unicode::Character character = unicode::decode_at(list.text.data() + i);
        if (is_match_(character.code)) matches.push_back({i, i + character.bytes});
        i += character.bytes;
      }
      if (matches.empty()) {
        out.push_back(piece);
      } else {
        split_by_matches(piece, matches, behavior_, /*invert=*/false, out);
      }
      return {};
    });
  }

 private:
  bool (*is_match_)(uint32_t);
  SplitBehavior behavior_;
};

class Metaspace : public PreTokenizer {
 public:
  Metaspace(uint32_t replacement, PrependScheme scheme, bool split)
      : replacement_(unicode::encode(replacement)), scheme_(scheme), split_(split) {}
  Status apply(PieceList& list) const override {
    rewrite_each(list, [&](std::string_view piece, bool is_first, std::string& text) {
      const bool asked =
          scheme_ == PrependScheme::always || (scheme_ == PrependScheme::first && is_first && list.at_start);
      if (asked && !piece.starts_with(' ') && !piece.starts_with(replacement_)) text += replacement_;
      for (char byte : piece) {
        if (byte == ' ') {
          text += replacement_;
        } else {
          text += byte;
        }
      }
    });
    if (!split_) return {};
    return cut_each(list, [&](Piece piece, std::vector<Piece>& out) -> Status {
      size_t begin = piece.begin;
      const std::string_view text = list.text.substr(0, piece.end);
      for (size_t at = text.find(replacement_, begin); at != std::string_view::npos;) {
        if (at > begin) out.push_back({begin, at});
        begin = at;
        at = text.find(replacement_, at + replacement_.size());
      }
      out.push_back({begin, piece.end});
      return {};
    });
  }

 private:
  std::string replacement_;
  PrependScheme scheme_;
  bool split_;
};

// \w+|[^\w\s]+ kept, the rest dropped.
class Whitespace : public PreTokenizer {
 public:
  Status apply(PieceList& list) const override {
    return cut_each(list, [&](Piece piece, std::vector<Piece>& out) -> Status {
      enum class Run { none, word, symbols } run = Run::none;
      for (size_t i = piece.begin; i < piece.end;) {
        const unicode::Character character = unicode::decode_at(list.text.data() + i);
        const Run here = unicode::is_word(character.code)    ? Run::word
                         : unicode::is_space(character.code) ? Run::none
                                                             : Run::symbols;
        if (here != Run::none && here == run) {
          out.back().end = i + character.bytes;
        } else if (here != Run::none) {
          out.push_back({i, i + character.bytes});
        }
        run = here;
        i += character.bytes;
      }
      return {};
    });
  }
};

class FixedLength : public PreTokenizer {
 public:
  explicit FixedLength(uint64_t characters) : characters_(characters) {}
  Status apply(PieceList& list) const override {
    return cut_each(list, [&](Piece piece, std::vector<Piece>& out) -> Status {
      uint64_t taken = characters_;
      for (size_t i = piece.begin; i < piece.end; ++taken) {
        if (taken == characters_) {
          out.push_back({i, i});
          taken = 0;
        }
        i += unicode::decode_at(list.text.data() + i).bytes;
        out.back().end = i;
      }
      return {};
    });
  }

 private:
  uint64_t characters_;
};

}  // namespace

PieceList::PieceList(std::string_view whole, bool begins_input) : text(whole), at_start(begins_input) {
  if (!whole.empty()) pieces.push_back({0, whole.size()});
}

PreTokenizerStep make_prefix_space() {
  return std::make_unique<PrefixSpace>();
}
PreTokenizerStep make_byte_map() {
  return std::make_unique<ByteMap>();
}
PreTokenizerStep make_scanner_split(PatternScanner scanner) {
  return std::make_unique<ScannerSplit>(scanner);
}
PreTokenizerStep make_regex_split(std::shared_ptr<const Regex> regex, SplitBehavior behavior, bool invert) {
  return std::make_unique<RegexSplit>(std::move(regex), behavior, invert);
}
PreTokenizerStep make_literal_split(std::string literal, SplitBehavior behavior, bool invert) {
  return std::make_unique<LiteralSplit>(std::move(literal), behavior, invert);
}
PreTokenizerStep make_class_split(bool (*is_match)(uint32_t code), SplitBehavior behavior) {
  return std::make_unique<ClassSplit>(is_match, behavior);
}
PreTokenizerStep make_metaspace(uint32_t replacement, PrependScheme scheme, bool split) {
  return std::make_unique<Metaspace>(replacement, scheme, split);
}
PreTokenizerStep make_whitespace() {
  return std::make_unique<Whitespace>();
}
PreTokenizerStep make_fixed_length(uint64_t characters) {
  return std::make_unique<FixedLength>(characters);
}

}  // namespace pare
