#include "tests/fuzz/teacher_cache_seed.h"

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "distill/teacher_cache.h"
#include "engine/core/random.h"

namespace pare::fuzz {
namespace {

// What `write` leaves in files of a folder that is gone afterwards.
template <typename Write>
std::string bytes_of(const std::string& name, Write write) {
  namespace fs = std::filesystem;
  std::string pattern = (fs::temp_directory_path() / "pare-fuzz-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) std::abort();
  const std::string folder = pattern + "/cache";
  fs::create_directory(folder);
  write(folder);
  const auto bytes = read_text_file(folder + "/" + name, 1 << 20);
  fs::remove_all(pattern);
  if (!bytes) std::abort();
  return *bytes;
}

void write_cache(const std::string& folder) {
  const TeacherCacheHeader header = seed_header();
  const Random random(1, RandomPurpose::test_data);
  std::vector<float> logits(size_t(header.windows * header.context * header.vocabulary));
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = 3.0f * random.normal(i);
  auto writer = TeacherCacheWriter::open(folder, header, JobMode::fresh);
  if (!writer || !writer->put(0, logits.data(), header.windows * header.context) || !writer->finish())
    std::abort();
}

}  // namespace

TeacherCacheHeader seed_header() {
  TeacherCacheHeader header{.teacher_hash = std::string(32, 'a'),
                            .input_hash = std::string(32, 'b'),
                            .vocabulary = 50,
                            .context = 2,
                            .windows = 3,
                            .k = 5,
                            .temperature = 2.0};
  if (!header.resolve()) std::abort();
  return header;
}

std::string seed_part() {
  static const std::string part = bytes_of("part-00000.topk", write_cache);
  return part;
}

std::string seed_index() {
  return bytes_of("index.json", write_cache);
}

TokenCacheKey seed_key() {
  return {.text = xxh3_128("text"), .tokenizer = xxh3_128("tokenizer"), .rules = rules_of({})};
}

std::string seed_tokens() {
  return bytes_of("stream.tokens", [](const std::string& folder) {
    TokenStream stream;
    stream.ids = {1, 2, 70'000, 4, 5};
    stream.documents = 2;
    stream.document_starts = {0, 3};
    stream.token_hash = token_hash(stream.ids);
    stream.text_hash = std::string(64, '0');
    if (!write_token_cache(folder + "/stream.tokens", seed_key(), stream)) std::abort();
  });
}

}  // namespace pare::fuzz
