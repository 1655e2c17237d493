// F3, F4, F17, F18 on the writers: the k-th call fails, for every k. Promise: the final name holds the old
// bytes or the complete new ones, and no temporary remains.
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "engine/core/manifest.h"
#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

namespace fs = std::filesystem;
using test::FaultScope;
using test::names_in;
using test::slurp;
using test::spill;

const std::string kText = [] {
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += std::to_string(i);
  return text;
}();

// Goes through every call of FileWriter, the buffer and the direct path.
Status write_file(const std::string& path, bool force) {
  PARE_TRY(FileWriter writer,
           FileWriter::create(path, {.force = force, .expected_bytes = kText.size() + 4096}));
  PARE_CHECK(writer.write(std::string_view(kText).substr(0, 5)));
  PARE_CHECK(writer.write(std::string_view(kText).substr(5)));
  PARE_CHECK(writer.pad_to(512));
  PARE_CHECK(writer.write_at(0, std::as_bytes(std::span("!!!", 3))));
  std::string back(7, ' ');
  PARE_CHECK(writer.read_back(0, std::as_writable_bytes(std::span(back))));
  return writer.publish();
}

std::string expected_file() {
  std::string text = "!!!" + kText.substr(3);
  text.resize((text.size() + 511) / 512 * 512);
  return text;
}

Status write_folder(const std::string& path, bool force) {
  PARE_TRY(DirWriter writer, DirWriter::create(path, {.force = force}));
  PARE_CHECK(writer.add("w", "new"));
  Manifest manifest;
  manifest.files.push_back([] {
    Json file = Json::object();
    file["name"] = "w";
    return file;
  }());
  PARE_CHECK(writer.add(kManifestFileName, manifest.to_json().dump()));
  return writer.publish();
}

struct Faulty {
  int error;
  bool from_then_on;
};

// Fails the k-th call, and the later ones where the case says so. Removing files keeps working then: a disk
// on which nothing can be removed leaves a temporary for the next run, and no program can help that.
class Injector {
 public:
  Injector(int64_t k, Faulty fault)
      : scope_([this, k, fault](std::string_view call, const std::string&) {
          const int64_t number = calls_++;
          const bool hit = number == k || (fault.from_then_on && number > k && call != "unlink" &&
                                           call != "readdir" && call != "openat");
          if (hit) ++hits_;
          return hit ? fault.error : 0;
        }) {}
  int64_t calls() const { return calls_; }
  int64_t hits() const { return hits_; }

 private:
  int64_t calls_ = 0, hits_ = 0;
  FaultScope scope_;
};

class WriteFaults : public ::testing::TestWithParam<std::tuple<int, bool, bool>> {};

TEST_P(WriteFaults, FileIsOldOrNew) {
  const auto [error, from_then_on, replacing] = GetParam();
  const std::string expected = expected_file();
  int64_t k = 0;
  for (bool reached = true; reached; ++k) {
    const std::string folder = test::temporary_folder(), path = folder + "/out";
    if (replacing) spill(path, "old");
    Status status;
    {
      Injector injector(k, {error, from_then_on});
      status = write_file(path, replacing);
      reached = injector.hits() > 0;
    }
    const std::string now = fs::exists(path) ? slurp(path) : "";
    const bool is_new = now == expected, is_old = now == (replacing ? "old" : "");
    ASSERT_TRUE(is_new || is_old) << "torn at call " << k;
    if (status) {
      ASSERT_TRUE(is_new) << "reported success at call " << k;
    } else {
      ASSERT_EQ(status.error().exit, Exit::io) << format_error(status.error()) << " at call " << k;
      ASSERT_FALSE(status.error().path.empty());
    }
    for (const std::string& name : test::names_in(folder)) ASSERT_EQ(name, "out") << "left at call " << k;
    fs::remove_all(folder);
  }
  EXPECT_GT(k, 20);
}

TEST_P(WriteFaults, FolderIsOldOrNew) {
  const auto [error, from_then_on, replacing] = GetParam();
  bool reached = true;
  for (int64_t k = 0; reached; ++k) {
    const std::string folder = test::temporary_folder(), path = folder + "/out";
    if (replacing) {
      ASSERT_TRUE(write_folder(path, false));
      spill(path + "/w", "old");
    }
    Status status;
    {
      Injector injector(k, {error, from_then_on});
      ::testing::internal::CaptureStderr();  // "the old directory could not be removed"
      status = write_folder(path, replacing);
      ::testing::internal::GetCapturedStderr();
      reached = injector.hits() > 0;
    }
    const std::string now = fs::exists(path) ? slurp(path + "/w") : "";
    if (status) {
      ASSERT_EQ(now, "new") << k;
    } else {
      // CL17 is the answer when the fault makes the old folder's manifest unreadable.
      ASSERT_TRUE(status.error().exit == Exit::io || status.error().rule == "CL17")
          << format_error(status.error()) << k;
      ASSERT_TRUE(now == "new" || now == (replacing ? "old" : "")) << "torn at call " << k;
    }
    if (fs::exists(path)) {
      ASSERT_EQ(names_in(path), (std::set<std::string>{"w", kManifestFileName})) << k;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Errors, WriteFaults,
                         ::testing::Combine(::testing::Values(ENOSPC, EIO, EDQUOT), ::testing::Bool(),
                                            ::testing::Bool()));

TEST(WriteFaultsOnce, ShortTransfersAndInterruptionsGiveEqualBytes) {
  const std::string path = test::temporary_folder() + "/out";
  int calls = 0;
  {
    const FaultScope fault(
        [&](std::string_view, const std::string&) { return ++calls % 2 == 0 ? EINTR : kShortTransfer; });
    const auto status = write_file(path, false);
    ASSERT_TRUE(status) << format_error(status.error());
  }
  EXPECT_TRUE(slurp(path) == expected_file());
  EXPECT_GT(calls, 100);
}

TEST(WriteFaultsOnce, FsyncAndCloseFailuresAreNotPublished) {
  for (const char* call : {"fsync", "close"}) {
    const std::string folder = test::temporary_folder(), path = folder + "/out";
    spill(path, "old");
    int failures = 0;
    const FaultScope fault([&](std::string_view name, const std::string&) {
      return name == call && failures++ == 0 ? EIO : 0;  // later calls succeed
    });
    const auto status = write_file(path, true);
    ASSERT_FALSE(status) << call;
    EXPECT_EQ(status.error().exit, Exit::io);
    EXPECT_EQ(slurp(path), "old") << call;
    EXPECT_EQ(names_in(folder), std::set<std::string>{"out"}) << call;
  }
}

// A failed write stays failed, also when the disk has room again.
TEST(WriteFaultsOnce, FirstFailureIsFinal) {
  const std::string folder = test::temporary_folder();
  auto writer = FileWriter::create(folder + "/out", {});
  bool full = true;
  const FaultScope fault(
      [&](std::string_view call, const std::string&) { return call == "write" && full ? ENOSPC : 0; });
  EXPECT_FALSE(writer->write(std::string(1 << 20, 'x')));
  full = false;
  EXPECT_FALSE(writer->write("y"));
  EXPECT_EQ(writer->publish().error().got, "ENOSPC");
  EXPECT_FALSE(fs::exists(folder + "/out"));
}

TEST(WriteFaultsOnce, FileSystemWithoutFallocate) {
  const std::string path = test::temporary_folder() + "/out";
  const FaultScope fault(
      [](std::string_view call, const std::string&) { return call == "fallocate" ? EOPNOTSUPP : 0; });
  ASSERT_TRUE(write_file(path, false));
  EXPECT_TRUE(slurp(path) == expected_file());
}

}  // namespace
}  // namespace pare
