#include "engine/tokenizer/model_bpe.h"

#include "engine/tokenizer/bpe_merge.h"
#include "engine/tokenizer/byte_level.h"
#include "engine/tokenizer/unicode.h"

namespace pare {
namespace {

// Collects symbols; unknown ones are held back so that a run of them can fuse.
class SymbolWriter {
 public:
  SymbolWriter(std::vector<int32_t>& out, const BpeOptions& options) : out_(out), options_(options) {}
  void known(int32_t id) {
    flush();
    out_.push_back(id);
  }
  // Bytes of an unknown character go in front of unknown tokens still held back, as in the reference
  // implementation.
  void byte(int32_t id) { out_.push_back(id); }
  void unknown() {
    if (!options_.unknown) return;  // no unknown token: the character is dropped
    if (pending_ && !options_.fuse_unknown) flush();
    pending_ = true;
  }
  void flush() {
    if (pending_) out_.push_back(*options_.unknown);
    pending_ = false;
  }

 private:
  std::vector<int32_t>& out_;
  const BpeOptions& options_;
  bool pending_ = false;
};

}  // namespace

BpeModel::BpeModel(Vocabulary vocabulary, PairRanks merges, BpeOptions options)
    : Model(std::move(vocabulary)), merges_(std::move(merges)), options_(std::move(options)) {
  fallback_ = byte_token_ids(vocabulary_);
  for (size_t byte = 0; byte < raw_symbol_.size(); ++byte) {
    const std::string character = unicode::encode(byte_level::character_of(static_cast<uint8_t>(byte)));
    raw_symbol_[byte] = vocabulary_.find(character).value_or(-1);
  }
}

void BpeModel::symbols_of_bytes(std::string_view piece, Scratch& scratch) const {
  SymbolWriter writer(scratch.symbols, options_);
  for (char byte : piece) {
    const int32_t id = raw_symbol_[static_cast<unsigned char>(byte)];
    if (id >= 0) {
      writer.known(id);
    } else {
      writer.unknown();
    }
  }
  writer.flush();
}

void BpeModel::symbols_of_characters(std::string_view piece, Scratch& scratch) const {
  SymbolWriter writer(scratch.symbols, options_);
  std::string& decorated = scratch.text;
  for (size_t i = 0; i < piece.size();) {
    const size_t bytes = unicode::decode_at(piece.data() + i).bytes;
    std::string_view character = piece.substr(i, bytes);
    const bool prefixed = i > 0 && !options_.continuing_prefix.empty();
    const bool suffixed = i + bytes == piece.size() && !options_.end_suffix.empty();
    if (prefixed || suffixed) {
      decorated.clear();
      if (prefixed) decorated += options_.continuing_prefix;
      decorated += character;
      if (suffixed) decorated += options_.end_suffix;
      character = decorated;
    }
    i += bytes;
    if (const auto id = vocabulary_.find(character)) {
      writer.known(*id);
      continue;
    }
    bool all_bytes = options_.byte_fallback;
    for (char byte : character) all_bytes = all_bytes && fallback_[static_cast<unsigned char>(byte)] >= 0;
    if (all_bytes) {
      for (char byte : character) writer.byte(fallback_[static_cast<unsigned char>(byte)]);
    } else {
      writer.unknown();
    }
  }
  writer.flush();
}

void BpeModel::encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (options_.ignore_merges) {
    if (options_.raw_bytes) {
      scratch.text.clear();
      byte_level::append_mapped(scratch.text, piece);
    }
    if (const auto id = vocabulary_.find(options_.raw_bytes ? std::string_view(scratch.text) : piece)) {
      ids.push_back(*id);
      return;
    }
  }
  scratch.symbols.clear();
  if (options_.raw_bytes) {
    symbols_of_bytes(piece, scratch);
  } else {
    symbols_of_characters(piece, scratch);
  }
  merge_symbols(merges_, scratch, ids);
}

}  // namespace pare
