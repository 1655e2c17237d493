// engine/tokenizer/token_windows.h: texts as one stream of tokens, and the windows that are cut from it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"
#include "engine/tokenizer/tokenizer.h"

namespace pare {

// Tokens in reading order, with the digests that a manifest names (docs/methods.md).
struct TokenStream {
  std::vector<int32_t> ids;
  std::string token_hash;  // SHA-256 of the ids as little-endian u32, 64 hex digits
  std::string text_hash;   // SHA-256 of the bytes of the documents, each preceded by its length (u64)
  int64_t documents = 0;
  // Where each document begins, ascending; documents without tokens share the position of the next. Empty when nobody
  // knows: tokens that came without their text.
  std::vector<int64_t> document_starts = {};
};

// SHA-256 over the ids as little-endian u32, in order.
std::string token_hash(std::span<const int32_t> ids);

enum class BosPolicy { automatic, always, never, once };

struct StreamOptions {
  BosPolicy bos = BosPolicy::automatic;  // automatic: every document framed as the tokenizer frames it;
                                         // always: BOS before every document; once: before the first only
  bool separate_documents = true;  // the end-of-text token between documents, where the tokenizer has one
  bool parse_special = false;      // special-token strings in the text become their ids
};

// Encodes documents one after the other into one stream. Documents run in parallel; the result does not
// depend on the number of threads. A second BOS at the start of a document is removed (counted in
// `double_bos`). Error: malformed (text is not UTF-8), resource (a pattern of the file runs wild).
Result<TokenStream> encode_documents(const Tokenizer& tokenizer, std::span<const std::string_view> documents,
                                     const StreamOptions& options = {}, int64_t* double_bos = nullptr);
// One document.
Result<TokenStream> encode_document(const Tokenizer& tokenizer, std::string_view text,
                                    const StreamOptions& options = {});
// A UTF-8 text file as one document; errors name the file.
Result<TokenStream> encode_file(const Tokenizer& tokenizer, const std::string& path,
                                const StreamOptions& options = {});

// A window of a stream: ids[begin, begin + length).
struct TokenWindow {
  int64_t begin = 0, length = 0;
};

// floor(tokens / length) windows side by side, at most `max_windows` (0: all); the rest is dropped.
std::vector<TokenWindow> disjoint_windows(int64_t tokens, int64_t length, int64_t max_windows = 0);

// `count` windows at offsets drawn uniformly from [0, tokens - length] with purpose calibration_windows;
// window i depends on (seed, i, tokens, length) only. Empty when the stream is shorter than one window.
std::vector<TokenWindow> random_windows(int64_t tokens, int64_t length, int64_t count, uint64_t seed);

// The tokens of a window. With `bos`, it comes first and the last token of the window makes room for it, so
// that the length stays the same.
std::vector<int32_t> window_ids(const TokenStream& stream, const TokenWindow& window,
                                std::optional<int32_t> bos = std::nullopt);

}  // namespace pare
