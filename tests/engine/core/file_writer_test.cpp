#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "engine/core/assert.h"
#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

namespace fs = std::filesystem;
using test::FaultScope;
using test::names_in;
using test::slurp;
using test::spill;
using Names = std::set<std::string>;

mode_t mode_of(const std::string& path) {
  struct stat status {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0);
  return status.st_mode & 0777;
}

Status write_file(const std::string& path, std::string_view text, const WriteOptions& options = {}) {
  PARE_TRY(FileWriter writer, FileWriter::create(path, options));
  PARE_CHECK(writer.write(text));
  return writer.publish();
}

TEST(FileWriter, PublishesUnderTheNameOnly) {
  const std::string folder = test::temporary_folder();
  auto writer = FileWriter::create(folder + "/out", {});
  ASSERT_TRUE(writer) << format_error(writer.error());
  ASSERT_TRUE(writer->write("hello"));
  EXPECT_FALSE(fs::exists(folder + "/out"));
  ASSERT_TRUE(writer->pad_to(8));
  ASSERT_TRUE(writer->pad_to(8));
  EXPECT_EQ(writer->position(), 8u);
  ASSERT_TRUE(writer->write_at(0, std::as_bytes(std::span("J", 1))));
  std::string back(5, ' ');
  ASSERT_TRUE(writer->read_back(0, std::as_writable_bytes(std::span(back))));
  EXPECT_EQ(back, "Jello");
  EXPECT_EQ(slurp(writer->temporary_path()), std::string("Jello\0\0\0", 8));
  EXPECT_TRUE(is_temporary_name(fs::path(writer->temporary_path()).filename().string()));
  ASSERT_TRUE(writer->publish());
  EXPECT_EQ(slurp(folder + "/out"), std::string("Jello\0\0\0", 8));
  { const FileWriter done = *std::move(writer); }
  EXPECT_EQ(names_in(folder), Names{"out"});
}

TEST(FileWriter, NothingRemainsWithoutPublish) {
  const std::string folder = test::temporary_folder();
  {
    auto writer = FileWriter::create(folder + "/out", {.expected_bytes = 1 << 20});
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->write(std::string(1 << 20, 'x')));
  }
  EXPECT_EQ(names_in(folder), Names{});
}

TEST(FileWriter, LargeAndSmallWritesKeepTheirOrder) {
  const std::string path = test::temporary_folder() + "/out";
  std::string expected;
  auto writer = FileWriter::create(path, {.expected_bytes = 10});
  for (int i = 0; i < 60; ++i) {
    const std::string piece(static_cast<size_t>(i * i * i * 7), static_cast<char>('a' + i % 26));
    ASSERT_TRUE(writer->write(piece));
    expected += piece;
    EXPECT_EQ(writer->position(), expected.size());
  }
  ASSERT_TRUE(writer->publish());
  EXPECT_TRUE(slurp(path) == expected);
}

TEST(FileWriter, ReservedSpaceIsCutToTheLength) {
  const std::string path = test::temporary_folder() + "/out";
  ASSERT_TRUE(write_file(path, "short", {.expected_bytes = 100'000}));
  EXPECT_EQ(slurp(path), "short");
}

TEST(FileWriter, ExistingOutputNeedsForce) {
  const std::string folder = test::temporary_folder(), path = folder + "/out";
  spill(path, "old");
  const auto refused = write_file(path, "new");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::usage);
  EXPECT_NE(refused.error().what.find("--force"), std::string::npos);
  EXPECT_EQ(slurp(path), "old");
  EXPECT_EQ(check_output(path, {}).error().exit, Exit::usage);
  EXPECT_TRUE(check_output(path, {.force = true}));
  ASSERT_TRUE(write_file(path, "new", {.force = true}));
  EXPECT_EQ(slurp(path), "new");
  EXPECT_EQ(names_in(folder), Names{"out"});
}

// Two programs that both saw a free name: the later rename loses.
TEST(FileWriter, DoesNotReplaceWhatAppearedMeanwhile) {
  for (const int flag_error : {0, EINVAL}) {
    const std::string path = test::temporary_folder() + "/out";
    const FaultScope fault(
        [&](std::string_view call, const std::string&) { return call == "rename" ? flag_error : 0; });
    auto writer = FileWriter::create(path, {});
    ASSERT_TRUE(writer->write("mine"));
    spill(path, "theirs");
    const auto refused = writer->publish();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().exit, Exit::usage);
    EXPECT_EQ(slurp(path), "theirs");
  }
}

TEST(FileWriter, LinkStandsInForRenameWithoutReplacing) {
  const std::string folder = test::temporary_folder();
  const FaultScope fault(
      [](std::string_view call, const std::string&) { return call == "rename" ? EINVAL : 0; });
  ASSERT_TRUE(write_file(folder + "/out", "text"));
  EXPECT_EQ(slurp(folder + "/out"), "text");
  EXPECT_EQ(names_in(folder), Names{"out"});
}

TEST(FileWriter, ModesFollowUmaskOrTheOldFile) {
  const std::string folder = test::temporary_folder();
  const mode_t before = ::umask(027);
  ASSERT_TRUE(write_file(folder + "/new", "x"));
  EXPECT_EQ(mode_of(folder + "/new"), 0640u);
  spill(folder + "/old", "x");
  ASSERT_EQ(::chmod((folder + "/old").c_str(), 0604), 0);
  ASSERT_TRUE(write_file(folder + "/old", "y", {.force = true}));
  EXPECT_EQ(mode_of(folder + "/old"), 0604u);
  ::umask(before);
}

TEST(FileWriter, OldInodeKeepsItsBytes) {
  const std::string path = test::temporary_folder() + "/out";
  spill(path, "old bytes");
  const auto reader = InputFile::open(path);
  ASSERT_TRUE(write_file(path, "new", {.force = true}));
  EXPECT_EQ(*reader->read_all(100), "old bytes");
}

TEST(FileWriter, SymlinkIsReplacedNotFollowed) {
  const std::string folder = test::temporary_folder();
  spill(folder + "/target", "target");
  fs::create_symlink("target", folder + "/out");
  EXPECT_EQ(write_file(folder + "/out", "x").error().exit, Exit::usage);
  ASSERT_TRUE(write_file(folder + "/out", "x", {.force = true}));
  EXPECT_EQ(slurp(folder + "/target"), "target");
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(folder + "/out")));
}

TEST(FileWriter, RefusesInputsAndWhatLiesInThem) {
  const std::string folder = test::temporary_folder();
  fs::create_directories(folder + "/model/sub");
  spill(folder + "/model/w", "w");
  fs::create_hard_link(folder + "/model/w", folder + "/hard");
  fs::create_symlink("model/w", folder + "/soft");
  fs::create_directory_symlink("model", folder + "/alias");
  struct stat status {};
  ASSERT_EQ(::stat((folder + "/model").c_str(), &status), 0);
  const auto input = InputFile::open(folder + "/model/w");
  const WriteOptions options{.force = true, .inputs = {input->identity(), {status.st_dev, status.st_ino}}};
  for (const char* name :
       {"/model/w", "/hard", "/soft", "/model/new", "/model/sub/new", "/alias/new", "/model"}) {
    const auto refused = check_output(folder + name, options);
    ASSERT_FALSE(refused) << name;
    EXPECT_EQ(refused.error().rule, "CL01") << name;
    EXPECT_EQ(refused.error().exit, Exit::usage) << name;
    EXPECT_FALSE(FileWriter::create(folder + name, options)) << name;
  }
  EXPECT_TRUE(check_output(folder + "/free", options));
  EXPECT_EQ(slurp(folder + "/model/w"), "w");
}

TEST(FileWriter, BadTargets) {
  const std::string folder = test::temporary_folder();
  spill(folder + "/file", "");
  fs::create_directory(folder + "/dir");
  const auto exit_of = [](const std::string& path) {
    const auto writer = FileWriter::create(path, {.force = true});
    return writer ? Exit::ok : writer.error().exit;
  };
  EXPECT_EQ(exit_of(folder + "/missing/out"), Exit::io);
  EXPECT_EQ(exit_of(folder + "/file/out"), Exit::io);
  EXPECT_EQ(exit_of(folder + "/dir"), Exit::usage);
  EXPECT_EQ(exit_of("/dev/null"), Exit::usage);
  EXPECT_EQ(exit_of("/"), Exit::usage);
  EXPECT_EQ(exit_of(folder + "/.."), Exit::usage);
  EXPECT_EQ(exit_of(""), Exit::usage);
  EXPECT_EQ(exit_of(folder + "/" + std::string(256, 'x')), Exit::usage);
  EXPECT_EQ(exit_of(folder + "/" + std::string(5000, 'x')), Exit::usage);
  EXPECT_EQ(exit_of(folder + "/.pare-tmp-x"), Exit::usage);
  EXPECT_EQ(names_in(folder), (Names{"file", "dir"}));
}

TEST(FileWriter, FreeSpaceIsCheckedFirst) {
  const std::string folder = test::temporary_folder();
  const auto refused = check_output(folder + "/out", {.expected_bytes = 1ull << 60});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::io);
  EXPECT_EQ(refused.error().where, "free space");
  EXPECT_STREQ(refused.error().limit_label, "need");
  EXPECT_FALSE(FileWriter::create(folder + "/out", {.expected_bytes = 1ull << 60}));
  EXPECT_EQ(names_in(folder), Names{});
}

TEST(FileWriter, SecondWriterOfOneNameIsLockedOut) {
  const std::string folder = test::temporary_folder();
  auto first = FileWriter::create(folder + "/out", {});
  ASSERT_TRUE(first);
  const auto second = FileWriter::create(folder + "/out", {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().exit, Exit::locked);
  EXPECT_EQ(second.error().got, "pid " + std::to_string(::getpid()));
  EXPECT_TRUE(FileWriter::create(folder + "/other", {}));
  EXPECT_EQ(DirWriter::create(folder + "/out", {}).error().exit, Exit::locked);
  ASSERT_TRUE(first->publish());
}

TEST(FileWriter, DeadTemporariesAreRemovedLivingOnesKept) {
  const std::string folder = test::temporary_folder();
  std::string temporary, lock;
  {
    const auto writer = FileWriter::create(folder + "/out", {});
    temporary = fs::path(writer->temporary_path()).filename().string();
    for (const std::string& name : names_in(folder)) lock = name.ends_with("-lock") ? name : lock;
  }
  const std::string dead = temporary.substr(0, temporary.size() - 16) + "00000000deadbeef";
  const std::string alive = temporary.substr(0, temporary.size() - 16) + "0000000000000001";
  spill(folder + "/" + dead, "left by kill -9");
  spill(folder + "/" + lock, "999999");  // a lock file without a holder
  spill(folder + "/" + alive, "held");
  spill(folder + "/.pare-tmp-00000000-0000000000000000", "of another output");
  fs::create_directory(folder + "/" + dead + "d");
  spill(folder + "/" + dead + "d/x", "");
  const int holder = ::open((folder + "/" + alive).c_str(), O_RDONLY);
  ASSERT_EQ(::flock(holder, LOCK_EX), 0);
  ASSERT_TRUE(write_file(folder + "/out", "x"));
  EXPECT_EQ(names_in(folder), (Names{"out", alive, ".pare-tmp-00000000-0000000000000000"}));
  ::close(holder);
}

TEST(FileWriter, FolderWithoutFsyncIsAWarningNotAnError) {
  const std::string folder = test::temporary_folder();
  const FaultScope fault([&](std::string_view call, const std::string& path) {
    return call == "fsync" && path == folder ? EINVAL : 0;
  });
  ::testing::internal::CaptureStderr();
  ASSERT_TRUE(write_file(folder + "/out", "x"));
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("durability is not guaranteed"), std::string::npos);
}

}  // namespace
}  // namespace pare
