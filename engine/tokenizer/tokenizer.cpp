#include "engine/tokenizer/tokenizer.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tokenizer/parts.h"

namespace pare {
namespace {

// Long texts are cut into units of about this size, which threads share.
constexpr size_t kUnitBytes = 256 * 1024;

// Scans (if the last cut is still to be done) and encodes pieces of `text`.
void encode_pieces(const Tokenizer::Parts& parts, std::string_view text, std::span<const Piece> pieces,
                   Scratch& scratch, std::vector<int32_t>& ids) {
  if (!parts.scanner) {
    parts.model->encode(text, pieces, scratch, ids);
    return;
  }
  std::array<Piece, 256> found;
  for (const Piece& piece : pieces) {
    const std::string_view subject = piece.of(text);
    for (size_t at = 0; at < subject.size();) {
      const size_t count = parts.scanner->scan(subject, at, found);
      parts.model->encode(subject, std::span(found).first(count), scratch, ids);
      at = found[count - 1].end;
    }
  }
}

// Pieces that the scanner may treat apart, none much longer than a unit.
std::vector<Piece> cut_long_pieces(const std::vector<Piece>& pieces, std::string_view text) {
  std::vector<Piece> cut;
  for (const Piece& piece : pieces) {
    const std::string_view subject = piece.of(text);
    size_t begin = 0;
    while (subject.size() - begin > 2 * kUnitBytes) {
      const size_t end = PatternScanner::safe_cut(subject, begin + kUnitBytes);
      if (end == subject.size()) break;
      cut.push_back({piece.begin + begin, piece.begin + end});
      begin = end;
    }
    cut.push_back({piece.begin + begin, piece.end});
  }
  return cut;
}

// The same ids as encode_pieces of all, from several threads: every piece is encoded by itself, and cuts lie
// where a match begins in any case.
void encode_in_parallel(const Tokenizer::Parts& parts, std::string_view text, std::span<const Piece> pieces,
                        std::vector<int32_t>& ids) {
  std::vector<std::span<const Piece>> units;
  for (size_t first = 0, bytes = 0, i = 0; i < pieces.size(); ++i) {
    bytes += pieces[i].end - pieces[i].begin;
    if (bytes >= kUnitBytes || i + 1 == pieces.size()) {
      units.push_back(pieces.subspan(first, i + 1 - first));
      first = i + 1;
      bytes = 0;
    }
  }
  std::vector<std::vector<int32_t>> results(units.size());
  parallel_for(static_cast<int64_t>(units.size()), [&](int64_t item) {
    const auto unit = static_cast<size_t>(item);
    ScratchPool::Lease scratch(parts.scratches);
    encode_pieces(parts, text, units[unit], *scratch, results[unit]);
  });
  size_t total = ids.size();
  for (const auto& result : results) total += result.size();
  ids.reserve(total);
  for (const auto& result : results) ids.insert(ids.end(), result.begin(), result.end());
}

Error too_long(size_t bytes) {
  return Error{.exit = Exit::resource,
               .rule = "DT05",
               .path = "text",
               .where = "",
               .what = "too long to tokenize at once",
               .got = std::to_string(bytes),
               .limit = std::to_string(INT32_MAX)};
}

// One section between added tokens, normalised.
Status encode_section(const Tokenizer::Parts& parts, std::string_view text, bool at_start, Scratch& scratch,
                      std::vector<int32_t>& ids) {
  PieceList list(text, at_start);
  for (const PreTokenizerStep& step : parts.pre_tokenizers) PARE_CHECK(step->apply(list));
  if (list.text.size() > INT32_MAX) return too_long(list.text.size());
  if (list.text.size() <= 2 * kUnitBytes) {
    encode_pieces(parts, list.text, list.pieces, scratch, ids);
  } else if (parts.scanner) {
    encode_in_parallel(parts, list.text, cut_long_pieces(list.pieces, list.text), ids);
  } else {
    encode_in_parallel(parts, list.text, list.pieces, ids);
  }
  return {};
}

// Text between the raw added tokens: normalise, cut out the normalised added tokens, encode the rest.
Status encode_raw_section(const Tokenizer::Parts& parts, std::string_view raw, bool at_start,
                          const EncodeOptions& options, Scratch& scratch, std::vector<int32_t>& ids) {
  std::string normalized;
  std::string_view text = raw;
  if (!parts.normalizer.empty()) {
    normalized = raw;
    PARE_CHECK(parts.normalizer.apply(normalized));
    text = normalized;
  }
  if (text.size() > INT32_MAX) return too_long(text.size());
  if (parts.normalized_matcher.empty()) return encode_section(parts, text, at_start, scratch, ids);
  std::vector<AddedTokenMatcher::Section> sections;
  parts.normalized_matcher.split(text, options.parse_special, sections);
  for (const auto& section : sections) {
    if (section.token != nullptr) {
      ids.push_back(section.token->id);
    } else {
      PARE_CHECK(
          encode_section(parts, section.range.of(text), at_start && section.range.begin == 0, scratch, ids));
    }
  }
  return {};
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (const size_t invalid = first_invalid_utf8(text); invalid != 0) {
    return Error{.exit = Exit::malformed,
                 .rule = "DT04",
                 .path = "text",
                 .where = fmt::format("byte {}", invalid - 1),
                 .what = "not UTF-8"};
  }
  if (text.size() > INT32_MAX) return too_long(text.size());
  std::vector<int32_t> ids;
  if (options.add_special) ids = parts_->framing.before;
  ids.reserve(ids.size() + text.size() / 3 + 8);
  std::vector<AddedTokenMatcher::Section> sections;
  parts_->raw_matcher.split(text, options.parse_special, sections);
  ScratchPool::Lease scratch(parts_->scratches);
  for (const auto& section : sections) {
    if (section.token != nullptr) {
      ids.push_back(section.token->id);
    } else {
      PARE_CHECK(encode_raw_section(*parts_, section.range.of(text), section.range.begin == 0, options,
                                    *scratch, ids));
    }
  }
  if (options.add_special) ids.insert(ids.end(), parts_->framing.after.begin(), parts_->framing.after.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  if (!parts_->token_bytes_end.empty()) {
    LossyUtf8 utf8;
    for (int32_t id : ids) {
      if (id < 0 || id >= parts_->id_bound || (skip_special && is_special(id))) continue;
      const auto index = static_cast<size_t>(id);
      const uint64_t begin = index == 0 ? 0 : parts_->token_bytes_end[index - 1];
      utf8.push(std::string_view(parts_->token_bytes).substr(begin, parts_->token_bytes_end[index] - begin),
                out);
    }
    utf8.finish(out);
    return out;
  }
  DecodeRun run(parts_->decoder);
  for (int32_t id : ids) {
    const std::string_view text = parts_->decoder_text(id);
    if (!text.empty() && !(skip_special && is_special(id))) run.push(text, out);
  }
  run.finish(out);
  return out;
}

int64_t Tokenizer::vocabulary_size() const {
  return parts_->id_bound;
}

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  if (const auto id = parts_->model->vocabulary().find(token)) return id;
  for (const AddedToken& added : parts_->added) {
    if (added.content == token) return added.id;
  }
  return std::nullopt;
}

std::string Tokenizer::token_text(int32_t id) const {
  const AddedToken* token = parts_->added_token(id);
  return token != nullptr ? token->content : std::string(parts_->model->vocabulary().text(id));
}

bool Tokenizer::is_special(int32_t id) const {
  const AddedToken* token = parts_->added_token(id);
  return token != nullptr && token->special;
}

std::optional<int32_t> Tokenizer::bos_id() const {
  return parts_->bos;
}
std::optional<int32_t> Tokenizer::eos_id() const {
  return parts_->eos;
}

bool Tokenizer::adds_bos() const {
  return parts_->bos && !parts_->framing.before.empty() && parts_->framing.before.front() == *parts_->bos;
}

std::string Tokenizer::description() const {
  std::string text = fmt::format("{}{}, {} tokens", parts_->byte_level ? "byte-level " : "",
                                 parts_->model->type(), parts_->token_count);
  const Framing& framing = parts_->framing;
  if (framing.empty()) return text;
  const auto add = [&](const std::vector<int32_t>& ids, std::string_view separator) {
    for (int32_t id : ids) {
      text += separator;
      text += sanitize(token_text(id));
      separator = " ";
    }
  };
  text += ", adds";
  add(framing.before, " ");
  add(framing.after, " ... ");
  return text;
}

Hash128 Tokenizer::hash() const {
  return parts_->hash;
}

}  // namespace pare
