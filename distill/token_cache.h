// distill/token_cache.h: encoded text on disk, so that a large corpus is tokenised once.
//
//   bytes    content
//   8        magic "PARETOKS"
//   4        format version, u32 (numbers are little-endian)
//   4        bytes of the header, u32
//   header   JSON with a checksum of itself: what the tokens were made from, how many there are, digests
//   ...      zeros to a multiple of 64
//   payload  ids as u16 when all lie below 65,536, else u32; zeros to a multiple of 8; document starts as u64
//
// A cache answers for one text, tokenizer and set of rules; these are compared, never assumed. What the file
// holds is compared with its checksum (XXH3-128) on every reading.
#pragma once

#include <functional>
#include <string>

#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/result.h"
#include "engine/tokenizer/token_windows.h"

namespace pare {

struct TokenCacheKey {
  Hash128 text;       // of the bytes of the file
  Hash128 tokenizer;  // of the bytes of tokenizer.json, and of whatever else decides its ids
  std::string rules;  // how documents became a stream: rules_of(), and a chat template where there is one

  // Of all three, for the name of a file.
  Hash128 hash() const;
};

// "bos=automatic separate=1 special=0".
std::string rules_of(const StreamOptions& options);

// `folder`/<32 hex digits>.tokens
std::string token_cache_path(const std::string& folder, const TokenCacheKey& key);

// Written aside and renamed; replaces a file of that name. Exit 5, 8 (another process is writing it).
Status write_token_cache(const std::string& path, const TokenCacheKey& key, const TokenStream& stream);

// Exit 3: TC01 not such a file, or cut short; TC02 a checksum; TC03 a field. Exit 4: TC04 a newer version.
// Exit 5 unreadable. Exit 8: TC05 made from another text, tokenizer or by other rules, naming which.
Result<TokenStream> read_token_cache(const std::string& path, const TokenCacheKey& key);
Result<TokenStream> read_token_cache(const InputFile& file, const TokenCacheKey& key);

enum class OnBadCache {
  refuse,  // the error of read_token_cache
  remake,  // a warning, and the cache is made again
};

// The stream from its cache in `folder`, which exists; or from `make`, and then the cache is written.
Result<TokenStream> cached_tokens(const std::string& folder, const TokenCacheKey& key,
                                  OnBadCache on_bad_cache, const std::function<Result<TokenStream>()>& make);

}  // namespace pare
