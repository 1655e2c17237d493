#include "engine/core/append_file.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

using test::FaultScope;
using test::slurp;
using test::spill;

class AppendFileTest : public testing::Test {
 protected:
  AppendFile open() {
    auto file = AppendFile::open(path_);
    if (!file) ADD_FAILURE() << format_error(file.error());
    return *std::move(file);
  }
  std::string folder_ = test::temporary_folder();
  std::string path_ = folder_ + "/log";
};

TEST_F(AppendFileTest, GrowsUnderItsName) {
  {
    AppendFile file = open();
    ASSERT_TRUE(file.append("one\n"));
    EXPECT_EQ(slurp(path_), "one\n");
    ASSERT_TRUE(file.sync());
  }
  AppendFile again = open();
  ASSERT_TRUE(again.append("two\n"));
  EXPECT_EQ(slurp(path_), "one\ntwo\n");
  ASSERT_TRUE(again.truncate(4));
  ASSERT_TRUE(again.append("three\n"));
  EXPECT_EQ(slurp(path_), "one\nthree\n");
}

TEST_F(AppendFileTest, CreateTakesNoOthersFile) {
  spill(path_, "theirs");
  const auto file = AppendFile::create(path_);
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().exit, Exit::usage);
  EXPECT_EQ(file.error().rule, "CL02");
  EXPECT_EQ(slurp(path_), "theirs");
}

TEST_F(AppendFileTest, NeverThroughASymlinkOrIntoAFolder) {
  spill(folder_ + "/other", "theirs");
  std::filesystem::create_symlink(folder_ + "/other", path_);
  const auto link = AppendFile::open(path_);
  ASSERT_FALSE(link);
  EXPECT_EQ(link.error().exit, Exit::io);
  EXPECT_EQ(slurp(folder_ + "/other"), "theirs");
  const auto folder = AppendFile::open(folder_);
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().exit, Exit::io);
}

TEST_F(AppendFileTest, ShortWritesGoOnAndFailuresAreFinal) {
  AppendFile file = open();
  {
    int calls = 0;
    const FaultScope scope([&](std::string_view call, const std::string&) {
      return call == "write" && calls++ == 0 ? kShortTransfer : 0;
    });
    ASSERT_TRUE(file.append("whole line\n"));
    EXPECT_EQ(slurp(path_), "whole line\n");
  }
  {
    const FaultScope scope(
        [](std::string_view call, const std::string&) { return call == "write" ? ENOSPC : 0; });
    const Status full = file.append("more\n");
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().exit, Exit::io);
    EXPECT_EQ(full.error().path, path_);
  }
  EXPECT_FALSE(file.append("later\n"));
  EXPECT_EQ(slurp(path_), "whole line\n");
}

}  // namespace
}  // namespace pare
