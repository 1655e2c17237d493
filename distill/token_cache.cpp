#include "distill/token_cache.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "distill/cache_fields.h"
#include "engine/core/assert.h"
#include "engine/core/checked.h"
#include "engine/core/limits.h"
#include "engine/core/log.h"
#include "engine/core/sealed_json.h"

namespace pare {
namespace {

static_assert(std::endian::native == std::endian::little, "caches are written as they lie in memory");

constexpr std::string_view kMagic = "PARETOKS";
constexpr uint32_t kVersion = 1;
constexpr uint64_t kPrefixBytes = 16, kAlignment = 64;

uint64_t aligned(uint64_t bytes, uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

// The payload as it lies in the file.
std::vector<std::byte> payload_of(const TokenStream& stream, int64_t id_bytes) {
  const size_t ids = stream.ids.size() * size_t(id_bytes);
  std::vector<std::byte> payload(aligned(ids, 8) + stream.document_starts.size() * 8);
  if (id_bytes == 4) {
    std::memcpy(payload.data(), stream.ids.data(), ids);
  } else {
    for (size_t i = 0; i < stream.ids.size(); ++i) {
      const auto id = uint16_t(stream.ids[i]);
      std::memcpy(payload.data() + 2 * i, &id, 2);
    }
  }
  if (!stream.document_starts.empty())
    std::memcpy(payload.data() + aligned(ids, 8), stream.document_starts.data(),
                stream.document_starts.size() * 8);
  return payload;
}

struct Header {
  int64_t tokens = 0, documents = 0, starts = 0, id_bytes = 0;
  std::string token_hash, text_hash, payload;

  Checked payload_bytes() const {
    return (Checked(uint64_t(tokens)) * uint64_t(id_bytes)).aligned_up(8) + Checked(uint64_t(starts)) * 8;
  }
};

Status compare(const std::string& path, const char* field, const std::string& got,
               const std::string& expected) {
  if (got == expected) return {};
  return foreign_cache(path, field, got, expected);
}

Result<Header> read_header(const Json& json, const std::string& path, const TokenCacheKey& key) {
  const CacheFields fields(json, path);
  constexpr size_t kHex = 64, kRules = 4096;
  PARE_TRY(const std::string text, fields.text("text", kHex));
  PARE_TRY(const std::string tokenizer, fields.text("tokenizer", kHex));
  PARE_TRY(const std::string rules, fields.text("rules", kRules));
  PARE_CHECK(compare(path, "text", text, key.text.hex()));
  PARE_CHECK(compare(path, "tokenizer", tokenizer, key.tokenizer.hex()));
  PARE_CHECK(compare(path, "rules", rules, key.rules));
  Header header;
  constexpr int64_t kMost = int64_t(limits::kDimension) - 1;
  PARE_TRY(header.tokens, fields.integer("tokens", 0, kMost));
  PARE_TRY(header.documents, fields.integer("documents", 0, kMost));
  PARE_TRY(header.starts, fields.integer("document_starts", 0, kMost));
  PARE_TRY(header.id_bytes, fields.integer("id_bytes", 2, 4));
  PARE_TRY(header.token_hash, fields.text("token_hash", kHex));
  PARE_TRY(header.text_hash, fields.text("text_hash", kHex));
  PARE_TRY(header.payload, fields.text("payload", kHex));
  if (header.id_bytes == 3) return cache_error("TC03", path, "id_bytes", "neither 2 nor 4", "3");
  return header;
}

// The stream of a payload whose checksum is right and whose size is that of the header.
Result<TokenStream> unpack(const Header& header, std::span<const std::byte> payload,
                           const std::string& path) {
  TokenStream stream;
  stream.documents = header.documents;
  stream.token_hash = header.token_hash;
  stream.text_hash = header.text_hash;
  stream.ids.resize(size_t(header.tokens));
  for (size_t i = 0; i < stream.ids.size(); ++i) {
    uint32_t id = 0;
    std::memcpy(&id, payload.data() + i * size_t(header.id_bytes), size_t(header.id_bytes));
    if (id > uint32_t(INT32_MAX))
      return cache_error("TC03", path, fmt::format("token {}", i), "out of range", fmt::format("{}", id),
                         fmt::format("at most {}", INT32_MAX));
    stream.ids[i] = int32_t(id);
  }
  stream.document_starts.resize(size_t(header.starts));
  const size_t at = payload.size() - stream.document_starts.size() * 8;
  if (header.starts > 0)
    std::memcpy(stream.document_starts.data(), payload.data() + at, stream.document_starts.size() * 8);
  int64_t last = 0;
  for (size_t i = 0; i < stream.document_starts.size(); ++i) {
    const int64_t start = stream.document_starts[i];
    if (start < last || start > header.tokens)
      return cache_error("TC03", path, fmt::format("document {}", i),
                         "begins outside the stream or before another", fmt::format("{}", start),
                         fmt::format("{} to {}", last, header.tokens));
    last = start;
  }
  return stream;
}

}  // namespace

Hash128 TokenCacheKey::hash() const {
  return xxh3_128(fmt::format("{} {} {}", text.hex(), tokenizer.hex(), rules));
}

std::string rules_of(const StreamOptions& options) {
  const char* bos = "automatic";
  if (options.bos == BosPolicy::always) bos = "always";
  if (options.bos == BosPolicy::never) bos = "never";
  if (options.bos == BosPolicy::once) bos = "once";
  return fmt::format("bos={} separate={} special={}", bos, int(options.separate_documents),
                     int(options.parse_special));
}

std::string token_cache_path(const std::string& folder, const TokenCacheKey& key) {
  return fmt::format("{}/{}.tokens", folder, key.hash().hex());
}

Status write_token_cache(const std::string& path, const TokenCacheKey& key, const TokenStream& stream) {
  const auto largest = std::max_element(stream.ids.begin(), stream.ids.end());
  const int64_t id_bytes = largest == stream.ids.end() || *largest < 65'536 ? 2 : 4;
  for (const int32_t id : stream.ids) PARE_ASSERT(id >= 0, "[token_cache] id {}", id);
  const std::vector<std::byte> payload = payload_of(stream, id_bytes);
  Json json = Json::object();
  json["text"] = key.text.hex();
  json["tokenizer"] = key.tokenizer.hex();
  json["rules"] = key.rules;
  json["tokens"] = int64_t(stream.ids.size());
  json["documents"] = stream.documents;
  json["document_starts"] = int64_t(stream.document_starts.size());
  json["id_bytes"] = id_bytes;
  json["token_hash"] = stream.token_hash;
  json["text_hash"] = stream.text_hash;
  json["payload"] = xxh3_128(payload).hex();
  const std::string header = seal_json(json);
  const std::vector<uint32_t> numbers{kVersion, uint32_t(header.size())};
  PARE_TRY(FileWriter writer,
           FileWriter::create(path, {.force = true, .expected_bytes = header.size() + payload.size()}));
  PARE_CHECK(writer.write(kMagic));
  PARE_CHECK(writer.write(bytes_of(numbers)));
  PARE_CHECK(writer.write(header));
  PARE_CHECK(writer.pad_to(kAlignment));
  PARE_CHECK(writer.write(payload));
  return writer.publish();
}

Result<TokenStream> read_token_cache(const InputFile& file, const TokenCacheKey& key) {
  const std::string& path = file.path();
  if (file.size() < kPrefixBytes)
    return cache_error("TC01", path, {}, "too short for a cache of tokens", fmt::format("{}", file.size()),
                       fmt::format("at least {}", kPrefixBytes));
  std::array<std::byte, kPrefixBytes> prefix;
  PARE_CHECK(file.read_at(0, prefix));
  if (std::memcmp(prefix.data(), kMagic.data(), kMagic.size()) != 0)
    return cache_error("TC01", path, "magic", "not a cache of tokens");
  uint32_t version = 0, header_bytes = 0;
  std::memcpy(&version, prefix.data() + 8, 4);
  std::memcpy(&header_bytes, prefix.data() + 12, 4);
  if (version != kVersion) {
    Error error = cache_error("TC04", path, "version", "unknown format version", fmt::format("{}", version),
                              fmt::format("{}", kVersion));
    error.exit = Exit::unsupported;
    return error;
  }
  if (header_bytes > limits::kConfigBytes || header_bytes > file.size() - kPrefixBytes)
    return cache_error("TC01", path, "header length", "larger than the file or the cap",
                       fmt::format("{}", header_bytes),
                       fmt::format("at most {}", std::min(limits::kConfigBytes, file.size() - kPrefixBytes)));
  std::string text(header_bytes, '\0');
  PARE_CHECK(file.read_at(kPrefixBytes, std::as_writable_bytes(std::span(text.data(), text.size()))));
  PARE_TRY(const Json json, read_sealed(text, path));
  PARE_TRY(const Header header, read_header(json, path, key));

  // Sizes are compared before anything of that size is made.
  const uint64_t begin = aligned(kPrefixBytes + header_bytes, kAlignment);
  const Checked size = Checked(begin) + header.payload_bytes();
  if (!size.valid() || size.value() != file.size())
    return cache_error("TC01", path, "file size", "not what the header says", fmt::format("{}", file.size()),
                       size.valid() ? fmt::format("{}", size.value()) : "a size");
  std::vector<std::byte> gap(begin - kPrefixBytes - header_bytes);
  PARE_CHECK(file.read_at(kPrefixBytes + header_bytes, gap));
  if (std::any_of(gap.begin(), gap.end(), [](std::byte b) { return b != std::byte(0); }))
    return cache_error("TC02", path, fmt::format("byte {}", kPrefixBytes + header_bytes),
                       "padding is not zero");
  std::vector<std::byte> payload(file.size() - begin);
  PARE_CHECK(file.read_at(begin, payload));
  if (const std::string got = xxh3_128(payload).hex(); got != header.payload)
    return cache_error("TC02", path, "payload", "checksum mismatch", got, header.payload);
  PARE_CHECK(file.check_unchanged());
  return unpack(header, payload, path);
}

Result<TokenStream> read_token_cache(const std::string& path, const TokenCacheKey& key) {
  PARE_TRY(const InputFile file, InputFile::open(path));
  return read_token_cache(file, key);
}

Result<TokenStream> cached_tokens(const std::string& folder, const TokenCacheKey& key,
                                  OnBadCache on_bad_cache, const std::function<Result<TokenStream>()>& make) {
  const std::string path = token_cache_path(folder, key);
  if (path_exists(path)) {
    Result<TokenStream> cached = read_token_cache(path, key);
    if (cached || on_bad_cache == OnBadCache::refuse) return cached;
    log_warning(fmt::format("{}; the cache is made again", format_error(cached.error())));
  }
  PARE_TRY(TokenStream stream, make());
  const Status written = write_token_cache(path, key, stream);
  // Another process writes the same bytes at this moment.
  if (!written && written.error().exit != Exit::locked) return written.error();
  return stream;
}

}  // namespace pare
