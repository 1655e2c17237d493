#include "engine/tokenizer/token_windows.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/limits.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"

namespace pare {
namespace {

void append_little_endian(std::vector<std::byte>& bytes, uint64_t value, int count) {
  for (int i = 0; i < count; ++i) bytes.push_back(static_cast<std::byte>(value >> (8 * i)));
}

std::string text_hash(std::span<const std::string_view> documents) {
  Sha256 sha;
  for (std::string_view document : documents) {
    std::vector<std::byte> length;
    append_little_endian(length, document.size(), 8);
    sha.update(length);
    sha.update(std::as_bytes(std::span(document.data(), document.size())));
  }
  return sha.hex();
}

// How one document is framed: the ids of its text alone, or with the tokens of the template.
struct Frame {
  bool add_special = false;
  std::optional<int32_t> bos;  // put in front
};

Frame frame_of(const Tokenizer& tokenizer, BosPolicy policy, bool is_first) {
  switch (policy) {
    case BosPolicy::automatic:
      return {.add_special = true, .bos = std::nullopt};
    case BosPolicy::always:
      return {.add_special = false, .bos = tokenizer.bos_id()};
    case BosPolicy::once:
      return {.add_special = false, .bos = is_first ? tokenizer.bos_id() : std::nullopt};
    case BosPolicy::never:
      break;
  }
  return {};
}

}  // namespace

std::string token_hash(std::span<const int32_t> ids) {
  Sha256 sha;
  std::vector<std::byte> bytes;
  constexpr size_t kChunk = 65'536;
  for (size_t first = 0; first < ids.size(); first += kChunk) {
    bytes.clear();
    for (int32_t id : ids.subspan(first, std::min(kChunk, ids.size() - first))) {
      append_little_endian(bytes, static_cast<uint32_t>(id), 4);
    }
    sha.update(bytes);
  }
  return sha.hex();
}

Result<TokenStream> encode_documents(const Tokenizer& tokenizer, std::span<const std::string_view> documents,
                                     const StreamOptions& options, int64_t* double_bos) {
  std::vector<std::vector<int32_t>> encoded(documents.size());
  std::vector<std::optional<Error>> errors(documents.size());
  const auto encode = [&](size_t i) {
    const Frame frame = frame_of(tokenizer, options.bos, i == 0);
    auto ids = tokenizer.encode(documents[i],
                                {.add_special = frame.add_special, .parse_special = options.parse_special});
    if (!ids) {
      errors[i] = ids.error();
      return;
    }
    encoded[i] = *std::move(ids);
    if (frame.bos) encoded[i].insert(encoded[i].begin(), *frame.bos);
  };
  if (documents.size() == 1) {
    encode(0);  // leaves the threads to the encoding of a long text
  } else {
    parallel_for(static_cast<int64_t>(documents.size()),
                 [&](int64_t item) { encode(static_cast<size_t>(item)); });
  }

  TokenStream stream;
  int64_t doubled = 0;
  const auto bos = tokenizer.bos_id();
  const std::optional<int32_t> separator = tokenizer.eos_id();
  const bool separate = options.separate_documents && separator.has_value();
  for (size_t i = 0; i < documents.size(); ++i) {
    if (errors[i]) {
      if (documents.size() > 1) errors[i]->where = fmt::format("document {} {}", i + 1, errors[i]->where);
      return *std::move(errors[i]);
    }
    std::vector<int32_t>& ids = encoded[i];
    if (bos && ids.size() >= 2 && ids[0] == *bos && ids[1] == *bos) {
      ids.erase(ids.begin());
      ++doubled;
    }
    const bool ends_itself = separate && !stream.ids.empty() && stream.ids.back() == *separator;
    if (i > 0 && separate && !ends_itself) stream.ids.push_back(*separator);
    stream.document_starts.push_back(static_cast<int64_t>(stream.ids.size()));
    stream.ids.insert(stream.ids.end(), ids.begin(), ids.end());
    std::vector<int32_t>().swap(ids);
  }
  stream.documents = static_cast<int64_t>(documents.size());
  stream.token_hash = token_hash(stream.ids);
  stream.text_hash = text_hash(documents);
  if (double_bos != nullptr) *double_bos = doubled;
  return stream;
}

Result<TokenStream> encode_document(const Tokenizer& tokenizer, std::string_view text,
                                    const StreamOptions& options) {
  return encode_documents(tokenizer, std::span(&text, 1), options);
}

Result<TokenStream> encode_file(const Tokenizer& tokenizer, const std::string& path,
                                const StreamOptions& options) {
  PARE_TRY(std::string text, read_text_file(path, INT32_MAX));
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);  // byte order mark, DT06
  auto stream = encode_document(tokenizer, text, options);
  if (!stream && stream.error().path == "text") stream.error().path = path;
  return stream;
}

std::vector<TokenWindow> disjoint_windows(int64_t tokens, int64_t length, int64_t max_windows) {
  std::vector<TokenWindow> windows;
  if (length <= 0) return windows;
  int64_t count = tokens / length;
  if (max_windows > 0) count = std::min(count, max_windows);
  for (int64_t i = 0; i < count; ++i) windows.push_back({i * length, length});
  return windows;
}

std::vector<TokenWindow> random_windows(int64_t tokens, int64_t length, int64_t count, uint64_t seed) {
  std::vector<TokenWindow> windows;
  if (length <= 0 || tokens < length) return windows;
  const Random random(seed, RandomPurpose::calibration_windows);
  const auto offsets = static_cast<uint64_t>(tokens - length) + 1;
  for (int64_t i = 0; i < count; ++i) {
    windows.push_back({static_cast<int64_t>(random.below(offsets, static_cast<uint64_t>(i))), length});
  }
  return windows;
}

std::vector<int32_t> window_ids(const TokenStream& stream, const TokenWindow& window,
                                std::optional<int32_t> bos) {
  const auto first = stream.ids.begin() + window.begin;
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(window.length));
  if (bos && window.length > 0) ids.push_back(*bos);
  ids.insert(ids.end(), first, first + (window.length - static_cast<int64_t>(ids.size())));
  return ids;
}

}  // namespace pare
