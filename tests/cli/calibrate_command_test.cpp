// `pare calibrate` as a user runs it: one process, parts put together, and what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "cli/statistics_file.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

std::string sample() {
  return source_path("samples/books-3m");
}

std::vector<std::string> words(const std::string& out, std::vector<std::string> more = {}) {
  std::vector<std::string> list = {"calibrate", sample(), "--data",    source_path("samples/text/sample.txt"),
                                   "--samples", "6",      "--context", "64",
                                   "-o",        out};
  list.insert(list.end(), more.begin(), more.end());
  return list;
}

Statistics load(const std::string& path) {
  const auto file = cli::StatisticsFile::open(path);
  EXPECT_TRUE(file) << format_error(file.error());
  return *file->load_all();
}

TEST(CalibrateCommand, WritesStatisticsOfAllSites) {
  const std::string out = temporary_folder() + "/s.safetensors";
  const CommandResult result =
      pare(words(out, {"--statistics", "second_moment,absmean,absmax,square,range,histogram"}));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out, HasSubstr("pare: done: 16 sites"));
  const Statistics statistics = load(out);
  ASSERT_EQ(statistics.sites.size(), 16u);  // 4 blocks
  for (const auto& [key, site] : statistics.sites) {
    EXPECT_EQ(site.tokens, 6 * 64);
    EXPECT_EQ(site.samples, 6);
    // Each statistic against the others: they are of the same values.
    const float* moment = site.second_moment.data<float>();
    for (int64_t c = 0; c < site.channels; ++c) {
      const double square = site.square_sum[size_t(c)];
      EXPECT_NEAR(moment[c * site.channels + c], square, 1e-4 * square + 1e-6);
      EXPECT_LE(site.abs_sum[size_t(c)], std::sqrt(square * double(site.tokens)) * (1 + 1e-9));
      EXPECT_LE(site.abs_max[size_t(c)], std::max(-site.low, site.high));
    }
    EXPECT_EQ(site.histogram->limit, double(std::max(-site.low, site.high)));
    EXPECT_LE(site.low, site.moving_low);
    EXPECT_GE(site.high, site.moving_high);
  }
  // Rows of a norm's output: gain^2 * channels is what a unit row weighs; only the order of size is checked.
  EXPECT_GT(statistics.find(0, Site::attention_in)->square_sum[0], 0.0);
}

TEST(CalibrateCommand, ThreadsDoNotMatter) {
  const std::string folder = temporary_folder();
  std::string first;
  for (const char* threads : {"1", "3"}) {
    const std::string out = folder + "/" + threads;
    ASSERT_EQ(
        pare(words(out, {"--threads", threads, "--statistics", "second_moment,absmean,histogram"})).exit_code,
        0);
    const std::string bytes = *read_text_file(out, 1 << 28);
    if (first.empty()) first = bytes;
    EXPECT_EQ(bytes, first);
  }
}

TEST(CalibrateCommand, PartsPutTogetherAreOnePass) {
  const std::string folder = temporary_folder();
  const std::string all = folder + "/all", range = folder + "/range";
  ASSERT_EQ(pare(words(all, {"--statistics", "second_moment,absmean,absmax,square,histogram"})).exit_code, 0);
  ASSERT_EQ(pare(words(range, {"--statistics", "range"})).exit_code, 0);
  for (const char* part : {"0", "1", "2"}) {
    const CommandResult result =
        pare(words(folder + "/p" + part, {"--statistics", "second_moment,absmean,absmax,square,histogram",
                                          "--part", std::string(part) + "/3", "--limits", range}));
    ASSERT_EQ(result.exit_code, 0) << result.error;
    EXPECT_THAT(result.out, HasSubstr("a part"));
  }
  const std::string merged = folder + "/merged";
  const CommandResult result =
      pare({"calibrate", "--merge", folder + "/p2", folder + "/p0", folder + "/p1", "-o", merged});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const Statistics a = load(merged), b = load(all);
  EXPECT_EQ(a.origin, b.origin);
  ASSERT_EQ(a.sites.size(), b.sites.size());
  for (const auto& [key, site] : b.sites) {
    const SiteStatistics& other = *a.find(key.first, key.second);
    EXPECT_EQ(other.tokens, site.tokens);
    EXPECT_EQ(other.samples, site.samples);
    EXPECT_EQ(other.abs_max, site.abs_max);
    EXPECT_EQ(other.low, site.low);
    EXPECT_EQ(other.high, site.high);
    EXPECT_EQ(other.histogram->positive, site.histogram->positive);
    EXPECT_EQ(other.histogram->negative, site.histogram->negative);
    for (size_t c = 0; c < site.abs_sum.size(); ++c) {
      EXPECT_NEAR(other.abs_sum[c], site.abs_sum[c], 1e-13 * site.abs_sum[c]);
    }
  }
  // A gap, and a part twice.
  EXPECT_EQ(pare({"calibrate", "--merge", folder + "/p0", folder + "/p2", "-o", folder + "/x"}).exit_code, 3);
  EXPECT_EQ(pare({"calibrate", "--merge", folder + "/p0", folder + "/p0", "-o", folder + "/x"}).exit_code, 3);
  EXPECT_FALSE(std::filesystem::exists(folder + "/x"));
}

TEST(CalibrateCommand, RefusesBeforeItWorks) {
  const std::string folder = temporary_folder(), out = folder + "/s";
  const auto code = [&](const std::vector<std::string>& list) {
    const CommandResult result = pare(list);
    EXPECT_EQ(result.error_lines(), 1) << result.error;
    return result.exit_code;
  };
  EXPECT_EQ(code({"calibrate", "-o", out}), 2);
  EXPECT_EQ(code({"calibrate", sample(), "-o", out}), 2);
  EXPECT_EQ(code(words(out, {"--statistics", "median"})), 2);
  EXPECT_EQ(code(words(out, {"--part", "3/3"})), 2);
  EXPECT_EQ(code(words(out, {"--part", "x"})), 2);
  EXPECT_EQ(code(words(out, {"--part", "0/7"})), 2);  // six windows
  EXPECT_EQ(code(words(out, {"--part", "0/2", "--statistics", "histogram"})), 2);
  EXPECT_EQ(code(words(out, {"--merge", "a"})), 2);
  EXPECT_EQ(code({"calibrate", sample(), "--data", folder + "/none.txt", "-o", out}), 5);
  EXPECT_EQ(code({"calibrate", "--merge", folder + "/none", "-o", out}), 5);
  EXPECT_EQ(code({"calibrate", "--merge", sample() + "/model.safetensors", "-o", out}), 3);
  EXPECT_EQ(folder_fingerprint(folder), folder_fingerprint(temporary_folder()));
  std::ofstream(out) << "here";
  EXPECT_EQ(code(words(out)), 2);
  EXPECT_EQ(pare(words(folder + "/dry", {"--dry-run"})).exit_code, 0);
  EXPECT_FALSE(std::filesystem::exists(folder + "/dry"));
}

TEST(CalibrateCommand, PartsOfOtherDataAreRefused) {
  const std::string folder = temporary_folder();
  ASSERT_EQ(pare(words(folder + "/a", {"--part", "0/2"})).exit_code, 0);
  ASSERT_EQ(pare(words(folder + "/b", {"--part", "1/2", "--seed", "5"})).exit_code, 0);
  const CommandResult result =
      pare({"calibrate", "--merge", folder + "/a", folder + "/b", "-o", folder + "/c"});
  EXPECT_EQ(result.exit_code, 8);
  EXPECT_THAT(result.error, HasSubstr("another model or data"));
}

}  // namespace
}  // namespace pare::test
