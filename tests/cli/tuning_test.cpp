// The file of measured speeds: written, read back, and not used where it does not fit.
#include "cli/tuning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "engine/core/json.h"
#include "tests/support/command.h"

namespace pare::cli {
namespace {

using cpu::Isa;

class TuningTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / "pare-tuning";
    std::filesystem::remove_all(folder_);
    path_ = (folder_ / "cache" / "pare" / "tuning.json").string();
    setenv("PARE_TUNING", path_.c_str(), 1);
  }
  void TearDown() override {
    unsetenv("PARE_TUNING");
    cpu::set_sparse_table(Isa::generic, cpu::built_in_table(Isa::generic));
    std::filesystem::remove_all(folder_);
  }
  std::string text() const {
    std::ifstream file(path_);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void replace(const std::string& from, const std::string& to) {
    std::string changed = text();
    ASSERT_NE(changed.find(from), std::string::npos);
    changed.replace(changed.find(from), from.size(), to);
    std::ofstream(path_) << changed;
  }
  // Whether 2:4 in bf16 runs on a sparse kernel.
  static bool runs_sparse() {
    return cpu::choose_sparse(Isa::generic, {.pattern = SparsityPattern::parse("2:4").value(),
                                             .out = 64,
                                             .in = 64,
                                             .density = 0.5,
                                             .value_dtype = DType::bf16})
        .is_sparse;
  }
  static cpu::SparseTable table(double ratio) {
    return cpu::SparseTable(cpu::sparse_kinds().size(), {ratio, ratio});
  }

  std::filesystem::path folder_;
  std::string path_;
};

TEST_F(TuningTest, WhatIsWrittenIsUsed) {
  for (const double ratio : {3.0, 0.5}) {
    ASSERT_TRUE(save_tuning(path_, Isa::generic, table(ratio)));
    load_tuning(Isa::generic);
    EXPECT_EQ(runs_sparse(), ratio > 1.0);
    EXPECT_THAT(tuning_label(), ::testing::MatchesRegex("tuned [0-9a-f]+"));
  }
}

TEST_F(TuningTest, AnotherMachineVersionOrLevelIsNotUsed) {
  for (const auto& [from, to] : {std::pair<std::string, std::string>{cpu::cpu_model(), "Another CPU"},
                                 {"\"program_version\": \"", "\"program_version\": \"9."},
                                 {"\"generic\"", "\"avx2\""},
                                 {"2of4-bf16", "2of4-bf17"},
                                 {"3.0", "-1.0"},
                                 {"{", "["}}) {
    cpu::set_sparse_table(Isa::generic, table(0.5));
    ASSERT_TRUE(save_tuning(path_, Isa::generic, table(3.0)));
    replace(from, to);
    ::testing::internal::CaptureStderr();
    load_tuning(Isa::generic);
    EXPECT_THAT(::testing::internal::GetCapturedStderr(), ::testing::HasSubstr("is not used")) << from;
    EXPECT_FALSE(runs_sparse()) << from;
  }
}

TEST_F(TuningTest, OffReadsNothing) {
  ASSERT_TRUE(save_tuning(path_, Isa::generic, table(3.0)));
  cpu::set_sparse_table(Isa::generic, table(0.5));
  setenv("PARE_TUNING", "off", 1);
  EXPECT_FALSE(tuning_path().has_value());
  load_tuning(Isa::generic);
  EXPECT_FALSE(runs_sparse());
}

TEST_F(TuningTest, TheFileLiesInTheCacheFolder) {
  unsetenv("PARE_TUNING");
  const char* old = std::getenv("XDG_CACHE_HOME");
  const std::string before = old == nullptr ? "" : old;
  setenv("XDG_CACHE_HOME", "/some/cache", 1);
  EXPECT_EQ(tuning_path(), "/some/cache/pare/tuning.json");
  setenv("XDG_CACHE_HOME", "relative", 1);
  const char* home = std::getenv("HOME");
  EXPECT_EQ(tuning_path(), home == nullptr || *home != '/' ? std::optional<std::string>()
                                                           : std::string(home) + "/.cache/pare/tuning.json");
  before.empty() ? unsetenv("XDG_CACHE_HOME") : setenv("XDG_CACHE_HOME", before.c_str(), 1);
}

TEST_F(TuningTest, DoctorTunesOnlyWhereThereIsAPlace) {
  const test::CommandResult result =
      test::pare({"doctor", "--tune"}, {.environment = {{"PARE_TUNING", "off"}}});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.error, ::testing::HasSubstr("PARE_TUNING"));
}

}  // namespace
}  // namespace pare::cli
