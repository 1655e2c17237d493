// libFuzzer: a teacher cache. The first byte says which file the rest is: the index, a part of a small cache,
// or an encoded stream. Random changes die at the checksums, so indexes and parts are also read with their
// sums put right.
#include <array>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "distill/teacher_cache_part.h"
#include "distill/token_cache.h"
#include "engine/core/sealed_json.h"
#include "tests/fuzz/one_file.h"
#include "tests/fuzz/teacher_cache_seed.h"

namespace {

void check(const pare::Error& error) {
  if (pare::format_error(error).find('\n') != std::string::npos) std::abort();
}

void read_index(std::string_view text) {
  const auto index = pare::read_teacher_cache_index(text, "fuzzed");
  if (!index) return check(index.error());
  // What was accepted says the same when it is written again.
  const auto again = pare::read_teacher_cache_index(index->text(), "fuzzed");
  if (!again || again->text() != index->text()) std::abort();
}

void read_part(const uint8_t* data, size_t size) {
  const pare::TeacherCacheHeader header = pare::fuzz::seed_header();
  const pare::fuzz::OneFile file(data, size);
  auto input = file.open();
  if (!input) std::abort();
  const auto part = pare::TeacherCachePart::open(*input, header, 0, nullptr);
  if (!part) return check(part.error());
  const pare::TopKRecord record = header.record();
  pare::TopKRow row;
  for (int64_t window = 0; window < header.windows; ++window) {
    const auto bytes = part->window(window);
    if (!bytes) {
      check(bytes.error());
      continue;
    }
    for (size_t at = 0; at < bytes->size(); at += record.bytes()) {
      const auto one = bytes->subspan(at, record.bytes());
      if (!record.read(one, row)) continue;
      std::vector<std::byte> again(record.bytes());
      record.write(row, again);
      if (std::memcmp(again.data(), one.data(), one.size()) != 0) std::abort();
    }
  }
}

// A part of the right length with all sums made anew.
std::string with_sums(std::string bytes) {
  const pare::TeacherCacheHeader header = pare::fuzz::seed_header();
  const std::string seed = pare::fuzz::seed_part();
  if (bytes.size() != seed.size()) return {};
  const size_t window = header.window_bytes(), count = size_t(header.windows);
  bytes.replace(0, 64, seed, 0, 64);
  const auto put = [&](size_t at, const pare::Hash128& sum) {
    const auto canonical = sum.canonical();
    std::memcpy(bytes.data() + at, canonical.data(), canonical.size());
  };
  const size_t sums = 64 + count * window;
  for (size_t i = 0; i < count; ++i)
    put(sums + 16 * i, pare::xxh3_128(std::string_view(bytes).substr(64 + i * window, window)));
  put(sums + 16 * count, pare::xxh3_128(bytes.substr(0, 64) + bytes.substr(sums, 16 * count)));
  bytes.replace(bytes.size() - 16, 16, seed, seed.size() - 16, 16);
  return bytes;
}

void read_tokens(const uint8_t* data, size_t size) {
  const pare::fuzz::OneFile file(data, size);
  auto input = file.open();
  if (!input) std::abort();
  const auto stream = pare::read_token_cache(*input, pare::fuzz::seed_key());
  if (!stream) return check(stream.error());
  for (const int32_t id : stream->ids)
    if (id < 0) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 3) {
    case 0: {
      read_index(rest);
      // The body of a sealed file, sealed again.
      const size_t body = rest.find("\"body\":");
      if (body == std::string::npos || rest.size() < body + 9) break;
      const auto json = pare::parse_json(std::string_view(rest).substr(body + 7, rest.size() - body - 9), "",
                                         {.max_bytes = 1 << 20});
      if (json) read_index(pare::seal_json(*json));
      break;
    }
    case 1: {
      read_part(data + 1, size - 1);
      const std::string repaired = with_sums(rest);
      if (!repaired.empty()) read_part(reinterpret_cast<const uint8_t*>(repaired.data()), repaired.size());
      break;
    }
    default:
      read_tokens(data + 1, size - 1);
  }
  return 0;
}
