// Rules IX01 to IX06: a name from a file must not lead out of the model directory.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

namespace fs = std::filesystem;
using test::FaultScope;
using test::spill;

// With openat2, and with the walk that stands in for it where it is missing.
class OpenBelow : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    top_ = test::temporary_folder();
    root_ = top_ + "/model";
    fs::create_directories(root_ + "/sub/deep");
    spill(top_ + "/secret", "secret");
    spill(root_ + "/plain", "plain");
    spill(root_ + "/sub/deep/inner", "inner");
    fs::create_symlink("../secret", root_ + "/leaves");
    fs::create_symlink(top_ + "/secret", root_ + "/absolute");
    fs::create_symlink("plain", root_ + "/stays");
    fs::create_directory_symlink("..", root_ + "/parent");
    fs::create_directory_symlink("sub", root_ + "/alias");
    fs::create_symlink("loop", root_ + "/loop");
    fs::create_symlink("missing", root_ + "/dangling");
    fs::create_hard_link(root_ + "/plain", root_ + "/hard");
    set_io_fault([error = GetParam()](std::string_view call, const std::string&) {
      return call == "openat2" ? error : 0;
    });
  }
  void TearDown() override { set_io_fault({}); }

  Result<std::string> read(const std::string& name, bool follow = false) {
    auto file = InputFile::open_below(root_, name, follow);
    if (!file) return file.error();
    return file->read_all(1000);
  }

  std::string top_, root_;
};

TEST_P(OpenBelow, OpensWhatIsInside) {
  EXPECT_EQ(*read("plain"), "plain");
  EXPECT_EQ(*read("sub/deep/inner"), "inner");
  EXPECT_EQ(*read("hard"), "plain");  // IX06
  EXPECT_EQ(InputFile::open_below(root_ + "/", "plain", false)->path(), root_ + "/plain");
}

TEST_P(OpenBelow, NamesThatLeaveAreRefusedUnopened) {
  const FaultScope fault([](std::string_view call, const std::string&) {
    EXPECT_FALSE(call.starts_with("open")) << "nothing may be opened for a bad name";
    return 0;
  });
  for (const std::string& name :
       {std::string("../secret"), std::string("sub/../../secret"), std::string("sub/../plain"),
        std::string(".."), top_ + "/secret", std::string("/etc/passwd"), std::string(""), std::string("."),
        std::string("./plain"), std::string("sub//plain"), std::string("sub/"), std::string("C:\\x"),
        std::string("C:x"), std::string("a\\b"), std::string("plain\0x", 7)}) {
    for (const bool follow : {false, true}) {
      const auto refused = read(name, follow);
      ASSERT_FALSE(refused) << name;
      EXPECT_EQ(refused.error().exit, Exit::malformed) << name;
      EXPECT_EQ(refused.error().what, "leaves the model directory") << name;
      EXPECT_TRUE(refused.error().rule == "IX01" || refused.error().rule == "IX02");
    }
  }
  for (const std::string& name : {std::string("a\nb"), std::string("a\xe2\x80\xae"), std::string("a\xff"),
                                  std::string(256, 'x'), "a/" + std::string(300, 'x')}) {
    EXPECT_EQ(read(name).error().rule, "IX19") << name;
    EXPECT_EQ(read(name).error().exit, Exit::malformed);
  }
}

TEST_P(OpenBelow, SymlinksAreNotFollowed) {
  for (const char* name : {"leaves", "absolute", "stays", "parent/secret", "alias/deep/inner", "dangling"}) {
    const auto refused = read(name);
    ASSERT_FALSE(refused) << name;
    EXPECT_EQ(refused.error().exit, Exit::malformed) << name;
    EXPECT_EQ(refused.error().rule, "IX03") << name;
    EXPECT_NE(refused.error().what.find("--follow-symlinks"), std::string::npos);
  }
  EXPECT_NE(read("leaves").error().got.find("secret"), std::string::npos);  // names the target
  EXPECT_EQ(*read("leaves", true), "secret");
  EXPECT_EQ(*read("alias/deep/inner", true), "inner");
}

TEST_P(OpenBelow, LoopsAndMissingFiles) {
  for (const bool follow : {false, true}) {
    EXPECT_EQ(read("loop", follow).error().exit, Exit::io);
    EXPECT_EQ(read("loop", follow).error().got, "ELOOP");
    EXPECT_EQ(read("nowhere", follow).error().got, "ENOENT");
    EXPECT_EQ(read("plain/x", follow).error().got, "ENOTDIR");
  }
  EXPECT_EQ(InputFile::open_below(top_ + "/nowhere", "x", false).error().exit, Exit::io);
}

TEST_P(OpenBelow, SpecialFilesDoNotHang) {
  ASSERT_EQ(::mkfifo((root_ + "/fifo").c_str(), 0600), 0);
  EXPECT_EQ(read("fifo").error().rule, "IX05");
  EXPECT_EQ(read("sub").error().rule, "IX05");
}

TEST_P(OpenBelow, RootMayBeASymlink) {
  fs::create_directory_symlink(root_, top_ + "/typed");
  const auto file = InputFile::open_below(top_ + "/typed", "plain", false);
  ASSERT_TRUE(file);
}

class Cache : public OpenBelow {
 protected:
  void SetUp() override {
    OpenBelow::SetUp();
    repository_ = top_ + "/hub/models--org--name";
    root_ = repository_ + "/snapshots/abc";
    fs::create_directories(root_ + "/sub");
    fs::create_directories(repository_ + "/blobs");
    fs::create_directories(top_ + "/hub/other/blobs");
    spill(repository_ + "/blobs/hash", "blob");
    spill(repository_ + "/refs", "refs");
    spill(top_ + "/hub/other/blobs/hash", "other");
  }
  std::string repository_;
};

TEST_P(Cache, SnapshotLinksIntoItsBlobs) {
  fs::create_symlink("../../blobs/hash", root_ + "/w");
  fs::create_symlink("../../../blobs/hash", root_ + "/sub/w");
  EXPECT_EQ(*read("w"), "blob");
  EXPECT_EQ(*read("sub/w"), "blob");
}

TEST_P(Cache, OtherTargetsAreRefused) {
  fs::create_symlink("../../../secret", repository_ + "/blobs/link");  // a blob that is itself a link
  int number = 0;
  for (const std::string& target :
       {std::string("../../refs"), std::string("../../../other/blobs/hash"),
        std::string("../../blobs/../refs"), std::string("../../blobs/./hash"), std::string("../blobs/hash"),
        repository_ + "/blobs/hash", std::string("../../blobs/link"), std::string("../../blobs"),
        std::string("../../../models--org--name/blobs/hash"), top_ + "/secret"}) {
    const std::string name = "w" + std::to_string(number++);
    fs::create_symlink(target, root_ + "/" + name);
    const auto refused = read(name);
    ASSERT_FALSE(refused) << target;
    EXPECT_EQ(refused.error().rule, "IX03") << target;
  }
}

TEST_P(Cache, OnlyBelowAFolderCalledSnapshots) {
  root_ = repository_ + "/elsewhere/abc";
  fs::create_directories(root_);
  fs::create_symlink("../../blobs/hash", root_ + "/w");
  EXPECT_EQ(read("w").error().rule, "IX03");
}

INSTANTIATE_TEST_SUITE_P(Kernel, OpenBelow, ::testing::Values(0, ENOSYS, EPERM));
INSTANTIATE_TEST_SUITE_P(Kernel, Cache, ::testing::Values(0, ENOSYS));

}  // namespace
}  // namespace pare
