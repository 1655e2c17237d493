// F1, F11, F15, F16 on `pare compress`: killed, stopped or damaged anywhere and resumed, the steps of a
// recipe give the bytes that they give undisturbed. PARE_SLOW_TESTS=1 kills it more often.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/faults/job_process.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

constexpr const char* kRecipe =
    "schema: 1\nseed: 3\nsamples: 6\ncontext: 64\nsteps:\n"
    "  - prune: {method: wanda, sparsity: 0.5}\n"
    "  - quantize: {method: gptq, scheme: int4-g64}\n";

struct CompressWords {
  std::string folder = temporary_folder();
  std::string output = folder + "/out.pare", recipe = folder + "/r.yaml";
  std::vector<std::string> more{};

  CompressWords() { write_bytes(recipe, kRecipe); }
  std::vector<std::string> list() const {
    std::vector<std::string> words = {"compress",
                                      source_path("samples/books-3m"),
                                      "--recipe",
                                      recipe,
                                      "--data",
                                      source_path("samples/text/sample.txt"),
                                      "--report-tokens",
                                      "64",
                                      "--no-speed",
                                      "-o",
                                      output};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  std::vector<std::string> resumed() const {
    std::vector<std::string> words = list();
    words.push_back("--resume");
    return words;
  }
  std::string job() const { return output + ".pare-job"; }
  std::vector<std::string> next() const { return fs::exists(job() + "/job.json") ? resumed() : list(); }
};

const std::string& expected_bytes() {
  static const std::string bytes = [] {
    const CompressWords words;
    const CommandResult result = pare(words.list());
    EXPECT_EQ(result.exit_code, 0) << result.error;
    return read_bytes(words.output);
  }();
  return bytes;
}

void expect_done(const CompressWords& words) {
  EXPECT_TRUE(read_bytes(words.output) == expected_bytes()) << "other bytes";
  EXPECT_FALSE(fs::exists(words.job()));
  for (const auto& entry : fs::directory_iterator(words.folder)) {
    const std::string name = entry.path().filename().string();
    const bool is_lock = name.starts_with(".pare-tmp-") && name.ends_with("-lock");
    EXPECT_TRUE(name.starts_with("out.pare") || name == "r.yaml" || is_lock) << entry.path();
  }
}

TEST(CompressKill, AtRandomMoments) {
  const auto files = [](const CompressWords& words) {
    const std::string first = words.job() + "/parts/1.pare", last = words.job() + "/parts/2.pare";
    return std::vector<std::string>{words.job() + "/job.json",
                                    first + ".pare-job/gen-1.json",
                                    first + ".pare-job/gen-3.json",
                                    first,
                                    words.job() + "/gen-1.json",
                                    last + ".pare-job/gen-2.json",
                                    last,
                                    words.job() + "/gen-2.json",
                                    words.job() + "/gen-3.json",
                                    words.output};
  };
  kill_at_random_moments<CompressWords>([] { return CompressWords(); }, files, expected_bytes(), 41,
                                        std::getenv("PARE_SLOW_TESTS") != nullptr ? 60 : 8, 3, expect_done);
}

TEST(CompressKill, StoppedInAStepAndContinued) {
  const CompressWords words;
  const std::string log = words.folder + "/out.pare.log";
  const pid_t child = start_pare(words.list(), log);
  wait_for_file(words.job() + "/parts/1.pare.pare-job/gen-1.json", child);
  ::kill(child, SIGTERM);
  ASSERT_EQ(ended(child), 75) << read_bytes(log);
  EXPECT_THAT(read_bytes(log), HasSubstr("to continue: pare compress"));
  EXPECT_THAT(read_bytes(log), HasSubstr("--resume"));
  EXPECT_FALSE(fs::exists(words.output));
  const CommandResult fresh = pare(words.list());
  EXPECT_EQ(fresh.exit_code, 8) << fresh.error;
  const CommandResult resumed = pare(words.resumed());
  ASSERT_EQ(resumed.exit_code, 0) << resumed.error;
  expect_done(words);
}

// A job with one finished step of two.
CompressWords between_steps() {
  CompressWords words;
  for (int tries = 0; tries < 20; ++tries) {
    const pid_t child = start_pare(words.list());
    // The job of the second step begins when the first one is committed.
    wait_for_file(words.job() + "/parts/2.pare.pare-job/job.json", child);
    ::kill(child, SIGKILL);
    const bool is_stopped = ended(child) != 0 && fs::exists(words.job() + "/job.json");
    if (is_stopped && !fs::exists(words.output)) break;
    fs::remove_all(words.job());
    fs::remove(words.output);
    fs::remove(words.output + ".report.json");
  }
  EXPECT_TRUE(fs::exists(words.job() + "/parts/1.pare"));
  fs::remove(words.job() + "/lock");
  return words;
}

TEST(CompressKill, OtherInputsAreRefusedByName) {
  const CompressWords words = between_steps();
  const auto refused = [&](const std::string& recipe, const std::string& field) {
    SCOPED_TRACE(field);
    write_bytes(words.recipe, recipe);
    const CommandResult result = pare(words.resumed());
    EXPECT_EQ(result.exit_code, 8) << result.error;
    EXPECT_THAT(result.error, HasSubstr("identity: " + field));
    EXPECT_FALSE(fs::exists(words.output));
  };
  const std::string top = "samples: 6\ncontext: 64\nsteps:\n",
                    head = "schema: 1\nseed: 3\n" + top + "  - prune: {method: wanda, sparsity: 0.5}\n";
  refused(head + "  - quantize: {method: gptq, scheme: int4-g32}\n", "recipe[1].options.scheme");
  refused(head + "  - quantize: {method: gptq, scheme: int4-g64, damping: 0.02}\n",
          "recipe[1].options.damping");
  refused("schema: 1\nseed: 4\n" + top +
              "  - prune: {method: wanda, sparsity: 0.5}\n"
              "  - quantize: {method: gptq, scheme: int4-g64}\n",
          "seed");
  refused("schema: 1\nseed: 3\n" + top +
              "  - prune: {method: wanda, sparsity: 0.6}\n"
              "  - quantize: {method: gptq, scheme: int4-g64}\n",
          "recipe[0].options.sparsity");
  refused(head + "  - quantize: {method: gptq, scheme: int4-g64, samples: 7}\n", "recipe[1].options.samples");
  // The same recipe in other words is the same recipe.
  write_bytes(
      words.recipe,
      R"({"schema": 1, "seed": 3, "samples": 6, "context": 64, "steps": [{"prune": {"sparsity": "5e-1"}},)"
      R"( {"quantize": {"method": "gptq", "scheme": "int4-g64-sym", "damping": 1e-2}}]})");
  const CommandResult result = pare(words.resumed());
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_TRUE(read_bytes(words.output) == expected_bytes());
}

TEST(CompressKill, DamagedWorkIsNoticed) {
  const CompressWords words = between_steps();
  const std::string part = words.job() + "/parts/1.pare";
  std::string bytes = read_bytes(part);
  bytes[bytes.size() / 2] = char(bytes[bytes.size() / 2] ^ 1);
  write_bytes(part, bytes);
  const CommandResult damaged = pare(words.resumed());
  EXPECT_EQ(damaged.exit_code, 3) << damaged.error;
  EXPECT_THAT(damaged.error, HasSubstr("parts/1.pare"));
  EXPECT_THAT(damaged.error, HasSubstr("--restart"));
  EXPECT_FALSE(fs::exists(words.output));
  std::vector<std::string> restart = words.list();
  restart.push_back("--restart");
  const CommandResult result = pare(restart);
  ASSERT_EQ(result.exit_code, 0) << result.error;
  expect_done(words);
}

}  // namespace
}  // namespace pare::test
