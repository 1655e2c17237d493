#include "distill/teacher_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <thread>

#include "distill/teacher_cache_part.h"
#include "distill/top_k.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "engine/core/sealed_json.h"
#include "engine/tensor/float_formats.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

TeacherCacheHeader header() {
  TeacherCacheHeader made{.teacher_hash = xxh3_128("teacher").hex(),
                          .input_hash = xxh3_128("inputs").hex(),
                          .vocabulary = 300,
                          .context = 6,
                          .windows = 11,
                          .k = 8,
                          .temperature = 2.0,
                          .part_windows = 4};
  EXPECT_TRUE(made.resolve());
  return made;
}

// Logits of all tokens of a cache, [windows * context, vocabulary].
std::vector<float> logits_of(const TeacherCacheHeader& header) {
  const Random random(5, RandomPurpose::test_data);
  std::vector<float> logits(size_t(header.windows * header.context * header.vocabulary));
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = 5.0f + 3.0f * random.normal(i);
  return logits;
}

TeacherCacheWriter opened(const std::string& folder, const TeacherCacheHeader& header,
                          JobMode mode = JobMode::fresh) {
  auto writer = TeacherCacheWriter::open(folder, header, mode);
  EXPECT_TRUE(writer) << format_error(writer.error());
  return *std::move(writer);
}

// Puts windows up to `end`, in pieces of `rows`.
void put_until(TeacherCacheWriter& writer, const std::vector<float>& logits, int64_t end, int64_t rows) {
  const TeacherCacheHeader& h = writer.header();
  int64_t row = writer.next_window() * h.context;
  while (row < end * h.context) {
    const int64_t count = std::min(rows, end * h.context - row);
    ASSERT_TRUE(writer.put(writer.next_window(), logits.data() + row * h.vocabulary, count));
    row += count;
  }
}

std::string written(const TeacherCacheHeader& header) {
  const std::string folder = test::memory_folder() + "/cache";
  TeacherCacheWriter writer = opened(folder, header);
  put_until(writer, logits_of(header), header.windows, 1000);
  const Status finished = writer.finish();
  EXPECT_TRUE(finished) << format_error(finished.error());
  return folder;
}

std::map<std::string, std::string> files_of(const std::string& folder) {
  std::map<std::string, std::string> files;
  const auto names = list_directory(folder);
  EXPECT_TRUE(names);
  for (const std::string& name : *names) files[name] = *read_text_file(folder + "/" + name, 1 << 24);
  return files;
}

void replace_file(const std::string& path, std::string_view bytes) {
  auto writer = FileWriter::create(path, {.force = true});
  ASSERT_TRUE(writer && writer->write(bytes) && writer->publish());
}

TEST(TeacherCache, GivesBackTheDistributionOfTheStoredLogits) {
  for (const DType type : {DType::f16, DType::bf16})
    for (const double temperature : {1.0, 2.0, 0.3}) {
      TeacherCacheHeader h = header();
      h.logit_type = type;
      h.temperature = temperature;
      const std::string folder = written(h);
      const std::vector<float> logits = logits_of(h);
      for (const double asked : {1.0, temperature}) {
        const auto reader = TeacherCacheReader::open(folder, {.temperature = asked});
        ASSERT_TRUE(reader) << format_error(reader.error());
        EXPECT_EQ(reader->temperature(), asked);
        std::vector<int32_t> ids(size_t(h.context * h.k));
        std::vector<float> log_probs(ids.size());
        TopKFinder finder(h.vocabulary, h.k, temperature, type);
        TopKRow row;
        for (int64_t window = 0; window < h.windows; ++window) {
          ASSERT_TRUE(reader->read(window, ids.data(), log_probs.data()));
          for (int64_t token = 0; token < h.context; ++token) {
            const float* exact = logits.data() + (window * h.context + token) * h.vocabulary;
            ASSERT_TRUE(finder.find(exact, row));
            double largest = exact[0], sum = 0.0, rest = 0.0;
            for (int64_t v = 0; v < h.vocabulary; ++v) largest = std::max(largest, double(exact[v]));
            for (int64_t v = 0; v < h.vocabulary; ++v) {
              const double p = std::exp((double(exact[v]) - largest) / asked);
              sum += p;
              if (std::find(row.ids.begin(), row.ids.end(), v) == row.ids.end()) rest += p;
            }
            // In exact arithmetic: the rounded logits of the k, the true ones of the others.
            double rounded_sum = rest;
            const auto z_of = [&](size_t i) {
              return double(type == DType::f16 ? f16_to_float(row.logits[i]) : bf16_to_float(row.logits[i]));
            };
            for (size_t i = 0; i < size_t(h.k); ++i) rounded_sum += std::exp(z_of(i) / asked);
            for (size_t i = 0; i < size_t(h.k); ++i) {
              const size_t at = size_t(token * h.k) + i;
              ASSERT_EQ(ids[at], row.ids[i]);
              ASSERT_NEAR(log_probs[at], z_of(i) / asked - std::log(rounded_sum), 2e-6);
              // Against the teacher itself: the rounding of the logits.
              const double exact_log = (double(exact[ids[at]]) - largest) / asked - std::log(sum);
              ASSERT_NEAR(log_probs[at], exact_log, (type == DType::f16 ? 0x1p-10 : 0x1p-7) * 20.0 / asked);
            }
          }
        }
      }
    }
}

TEST(TeacherCache, TheBytesDoNotDependOnPiecesThreadsOrStrides) {
  const TeacherCacheHeader h = header();
  const std::vector<float> logits = logits_of(h);
  const auto expected = files_of(written(h));
  ASSERT_EQ(expected.size(), 4u);
  for (const int64_t rows : {1, 5, 17}) {
    const std::string folder = test::memory_folder() + "/cache";
    TeacherCacheWriter writer = opened(folder, h);
    put_until(writer, logits, h.windows, rows);
    ASSERT_TRUE(writer.finish());
    EXPECT_EQ(files_of(folder), expected) << rows;
  }
  set_thread_count(1);
  EXPECT_EQ(files_of(written(h)), expected);
  set_thread_count(0);
  // Rows with columns behind the vocabulary, which do not count.
  std::vector<float> padded;
  for (int64_t row = 0; row < h.windows * h.context; ++row) {
    padded.insert(padded.end(), logits.begin() + row * h.vocabulary,
                  logits.begin() + (row + 1) * h.vocabulary);
    padded.insert(padded.end(), 7, 1000.0f);
  }
  const std::string folder = test::memory_folder() + "/cache";
  TeacherCacheWriter writer = opened(folder, h);
  ASSERT_TRUE(writer.put(0, padded.data(), h.windows * h.context, h.vocabulary + 7));
  ASSERT_TRUE(writer.finish());
  EXPECT_EQ(files_of(folder), expected);
}

TEST(TeacherCache, AKilledPassGoesOnWhereItWasCommitted) {
  const TeacherCacheHeader h = header();
  const std::vector<float> logits = logits_of(h);
  const auto expected = files_of(written(h));
  for (int64_t stop = 1; stop < h.windows; ++stop) {
    const std::string folder = test::memory_folder() + "/cache";
    {
      TeacherCacheWriter writer = opened(folder, h);
      put_until(writer, logits, stop, 100);
      if (stop % 2 == 0) {
        ASSERT_TRUE(writer.checkpoint());
        EXPECT_EQ(writer.interrupted_error().exit, Exit::interrupted);
      }
      // Two rows more, of which a resumed run knows nothing.
      ASSERT_TRUE(writer.put(stop, logits.data() + stop * h.context * h.vocabulary, 2));
    }
    EXPECT_FALSE(teacher_cache_exists(folder));
    EXPECT_EQ(TeacherCacheReader::open(folder, {}).error().exit, Exit::io);
    EXPECT_EQ(TeacherCacheWriter::open(folder, h, JobMode::fresh).error().rule, "CL16");
    TeacherCacheWriter writer = opened(folder, h, JobMode::resume);
    EXPECT_EQ(writer.next_window(), stop % 2 == 0 ? stop : stop / 4 * 4);
    put_until(writer, logits, h.windows, 7);
    ASSERT_TRUE(writer.finish());
    EXPECT_EQ(files_of(folder), expected) << stop;
    EXPECT_FALSE(path_exists(job_path_of(folder)));
  }
}

TEST(TeacherCache, ARunKilledBehindItsIndexIsFinishedAgain) {
  const TeacherCacheHeader h = header();
  const std::vector<float> logits = logits_of(h);
  const auto expected = files_of(written(h));
  const std::string folder = test::memory_folder() + "/cache";
  {
    TeacherCacheWriter writer = opened(folder, h);
    put_until(writer, logits, h.windows, 100);
  }
  replace_file(teacher_cache_index_path(folder), expected.at("index.json"));
  TeacherCacheWriter writer = opened(folder, h, JobMode::resume);
  EXPECT_EQ(writer.next_window(), h.windows);
  ASSERT_TRUE(writer.finish());
  EXPECT_EQ(files_of(folder), expected);
}

TEST(TeacherCache, AnotherJobOrACompleteCacheIsLeftAlone) {
  const TeacherCacheHeader h = header();
  const std::string complete = written(h);
  const auto refused = TeacherCacheWriter::open(complete, h, JobMode::fresh);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().rule, "CL02");
  EXPECT_FALSE(path_exists(job_path_of(complete)));

  const std::string folder = test::memory_folder() + "/cache";
  {
    TeacherCacheWriter writer = opened(folder, h);
    put_until(writer, logits_of(h), 5, 100);
    ASSERT_TRUE(writer.checkpoint());
    const auto locked = TeacherCacheWriter::open(folder, h, JobMode::resume);
    ASSERT_FALSE(locked);
    EXPECT_EQ(locked.error().exit, Exit::locked);
  }
  TeacherCacheHeader other = h;
  other.k = 9;
  const auto differs = TeacherCacheWriter::open(folder, other, JobMode::resume);
  ASSERT_FALSE(differs);
  EXPECT_EQ(differs.error().exit, Exit::locked);
  EXPECT_NE(format_error(differs.error()).find("k: "), std::string::npos) << format_error(differs.error());
  // A part that changed since is found before any work.
  const std::string part = teacher_cache_part_path(folder, 0);
  std::string bytes = *read_text_file(part, 1 << 20);
  bytes[100] ^= 4;
  replace_file(part, bytes);
  const auto damaged = TeacherCacheWriter::open(folder, h, JobMode::resume);
  ASSERT_FALSE(damaged);
  EXPECT_EQ(damaged.error().rule, "TC02");
  EXPECT_EQ(damaged.error().path, part);
}

TEST(TeacherCache, LogitsThatAreNotFiniteStopThePass) {
  const TeacherCacheHeader h = header();
  std::vector<float> logits = logits_of(h);
  logits[size_t((9 * h.context + 3) * h.vocabulary + 17)] = std::nanf("");
  TeacherCacheWriter writer = opened(test::memory_folder() + "/cache", h);
  const Status status = writer.put(0, logits.data(), h.windows * h.context);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().exit, Exit::numeric);
  EXPECT_EQ(status.error().rule, "NU16");
  EXPECT_EQ(status.error().where, "window 9 token 3");
}

TEST(TeacherCache, NamesWhatItWasMadeFrom) {
  const TeacherCacheHeader h = header();
  const std::string folder = written(h);
  const TeacherCacheExpected right{.teacher_hash = h.teacher_hash,
                                   .input_hash = h.input_hash,
                                   .vocabulary = h.vocabulary,
                                   .context = h.context,
                                   .windows = h.windows,
                                   .k = h.k,
                                   .temperature = h.temperature};
  EXPECT_TRUE(TeacherCacheReader::open(folder, right));
  EXPECT_TRUE(TeacherCacheReader::open(folder, {}));
  const auto field = [&](auto change) {
    TeacherCacheExpected expected = right;
    change(expected);
    const auto reader = TeacherCacheReader::open(folder, expected);
    EXPECT_FALSE(reader);
    EXPECT_EQ(reader.error().exit, Exit::locked);
    EXPECT_EQ(reader.error().rule, "TC05");
    return reader.error().where + " " + reader.error().got + " " + reader.error().limit;
  };
  EXPECT_EQ(field([](auto& e) { e.teacher_hash = "abc"; }), "teacher_hash " + h.teacher_hash + " abc");
  EXPECT_EQ(field([](auto& e) { e.input_hash = "abc"; }), "input_hash " + h.input_hash + " abc");
  EXPECT_EQ(field([](auto& e) { e.vocabulary = 299; }), "vocabulary 300 299");
  EXPECT_EQ(field([](auto& e) { e.context = 7; }), "context 6 7");
  EXPECT_EQ(field([](auto& e) { e.windows = 12; }), "windows 11 12");
  EXPECT_EQ(field([](auto& e) { e.k = 64; }), "k 8 64");
  EXPECT_EQ(field([](auto& e) { e.temperature = 3.0; }), "temperature 2 3");
}

TEST(TeacherCache, EveryDamageIsFound) {
  TeacherCacheHeader h = header();
  h.windows = 5;
  h.context = 2;
  const std::string folder = written(h);
  std::vector<int32_t> ids(size_t(h.context * h.k));
  std::vector<float> log_probs(ids.size());
  // Opens the cache and reads all of it; the rule of the error, or nothing.
  const auto read_all = [&]() -> std::string {
    const auto reader = TeacherCacheReader::open(folder, {});
    if (!reader) return reader.error().rule.empty() ? "no rule" : reader.error().rule;
    for (int64_t window = 0; window < h.windows; ++window) {
      const Status status = reader->read(window, ids.data(), log_probs.data());
      if (!status) return status.error().rule;
    }
    return {};
  };
  ASSERT_EQ(read_all(), "");
  const auto files = files_of(folder);
  for (const auto& [name, whole] : files) {
    const std::string path = folder + "/" + name;
    for (size_t i = 0; i < whole.size(); ++i) {
      std::string changed = whole;
      changed[i] = char(changed[i] ^ 1 << (i % 8));
      replace_file(path, changed);
      const std::string rule = read_all();
      ASSERT_TRUE(rule.starts_with("TC0")) << name << " byte " << i << ": " << rule;
    }
    for (size_t length = 0; length < whole.size(); length += 13) {
      replace_file(path, std::string_view(whole).substr(0, length));
      const std::string rule = read_all();
      ASSERT_TRUE(rule.starts_with("TC0")) << name << " cut at " << length << ": " << rule;
    }
    replace_file(path, whole + "x");
    EXPECT_TRUE(read_all().starts_with("TC0")) << name;
    replace_file(path, whole);
  }
  ASSERT_EQ(read_all(), "");
  // A part of the same shape from another cache, and parts in each other's places.
  TeacherCacheHeader other = h;
  other.teacher_hash = xxh3_128("another").hex();
  replace_file(teacher_cache_part_path(folder, 0), files_of(written(other)).at("part-00000.topk"));
  const auto foreign = TeacherCacheReader::open(folder, {});
  ASSERT_FALSE(foreign);
  EXPECT_EQ(foreign.error().where, "header hash");
}

// Fields that contradict each other under a checksum that is right.
TEST(TeacherCache, HostileHeadersAreRefused) {
  const TeacherCacheIndex whole{header(), std::vector<Hash128>(3)};
  ASSERT_TRUE(read_teacher_cache_index(whole.text(), "index.json"));
  const auto where = [&](auto change) {
    TeacherCacheIndex index = whole;
    change(index.header);
    const auto read = read_teacher_cache_index(index.text(), "index.json");
    return read ? std::string("accepted") : read.error().where;
  };
  EXPECT_EQ(where([](auto&) {}), "accepted");
  EXPECT_EQ(where([](auto& h) { h.windows = int64_t(1) << 39; }), "parts");
  EXPECT_EQ(where([](auto& h) { h.windows = INT64_MAX; }), "windows");
  EXPECT_EQ(where([](auto& h) { h.part_windows = 1; }), "parts");
  EXPECT_EQ(where([](auto& h) { h.part_windows = INT64_MAX; }), "part_windows");
  EXPECT_EQ(where([](auto& h) { h.context = int64_t(1) << 48; }), "context");
  EXPECT_EQ(where([](auto& h) { h.context = 0; }), "context");
  EXPECT_EQ(where([](auto& h) { h.vocabulary = 5'000'000; }), "vocabulary");
  EXPECT_EQ(where([](auto& h) { h.temperature = 1e9; }), "temperature");
  const auto text = [](std::string_view json) {
    const auto parsed = parse_json(json, "", {.max_bytes = 1000});
    EXPECT_TRUE(parsed);
    const auto read = read_teacher_cache_index(seal_json(*parsed), "index.json");
    return read ? std::string("accepted") : read.error().where;
  };
  EXPECT_EQ(text(R"({})"), "header");
  EXPECT_EQ(text(R"({"header":{}})"), "parts");
  EXPECT_EQ(text(R"({"header":{},"parts":[]})"), "version");
  EXPECT_EQ(text(R"({"header":{"version":2},"parts":[]})"), "version");
}

TEST(TeacherCache, OptionsOutOfRange) {
  TeacherCacheHeader h = header();
  h.k = 0;
  EXPECT_EQ(h.resolve().error().path, "--top-k");
  h = header();
  h.temperature = 0.0;
  EXPECT_EQ(h.resolve().error().path, "--temperature");
  h = header();
  h.k = 1000;
  ASSERT_TRUE(h.resolve());
  EXPECT_EQ(h.k, 300);
}

TEST(TeacherCache, ThreadsReadTheSame) {
  const TeacherCacheHeader h = header();
  const auto reader = TeacherCacheReader::open(written(h), {});
  ASSERT_TRUE(reader);
  std::vector<std::vector<float>> read(4);
  std::vector<std::thread> threads;
  for (auto& mine : read)
    threads.emplace_back([&mine, &reader, &h] {
      std::vector<int32_t> ids(size_t(h.context * h.k));
      std::vector<float> log_probs(ids.size());
      for (int64_t i = 0; i < 100; ++i) {
        if (!reader->read(i % h.windows, ids.data(), log_probs.data())) return;
        mine.insert(mine.end(), log_probs.begin(), log_probs.end());
      }
    });
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(read[0].size(), size_t(100 * h.context * h.k));
  for (const auto& other : read) EXPECT_EQ(other, read[0]);
}

}  // namespace
}  // namespace pare
