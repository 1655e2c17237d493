#include "engine/core/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

namespace fs = std::filesystem;
using test::spill;

// Each statement runs in a child of its own, since handlers and exits belong to a process.
class SignalsDeathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    GTEST_FLAG_SET(death_test_style, "fast");
    folder_ = test::temporary_folder();
  }
  std::string folder_;
};

[[noreturn]] void leave(int code) {
  ::_exit(code);
}

TEST_F(SignalsDeathTest, TruncatedMappingIsExit5WithOneLine) {
  const std::string path = folder_ + "/f";
  const auto touch = [&] {
    install_signal_handlers();
    spill(path, std::string(100'000, 'x'));
    const auto file = InputFile::open(path, "m.pare");
    const auto mapped = MappedFile::map(*file);
    if (::truncate(path.c_str(), 0) != 0) leave(99);
    const volatile std::byte* bytes = (*mapped)->bytes().data();
    leave(static_cast<int>(bytes[50'000]));
  };
  EXPECT_EXIT(touch(), ::testing::ExitedWithCode(5),
              "^pare: error: m.pare: input changed while in use \\(got SIGBUS\\)\n$");
}

TEST_F(SignalsDeathTest, BusErrorElsewhereKeepsItsDefault) {
  const std::string path = folder_ + "/f";
  const auto touch = [&] {
    install_signal_handlers();
    spill(path, std::string(100'000, 'x'));
    const auto file = InputFile::open(path);
    const auto mapped = MappedFile::map(*file);
    unregister_mapping((*mapped)->bytes().data());
    if (::truncate(path.c_str(), 0) != 0) leave(99);
    const volatile std::byte* bytes = (*mapped)->bytes().data();
    leave(static_cast<int>(bytes[50'000]));
  };
  EXPECT_EXIT(touch(), ::testing::KilledBySignal(SIGBUS), "");
}

TEST_F(SignalsDeathTest, FirstSignalWithoutAJobRemovesTemporaries) {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    const auto interrupt = [&] {
      install_signal_handlers();
      auto writer = FileWriter::create(folder_ + "/out", {});
      auto folder = DirWriter::create(folder_ + "/dir", {});
      if (!writer->write("x") || !folder->add("a", "b") || !folder->file("c")) leave(99);
      ::raise(number);
      leave(98);
    };
    EXPECT_EXIT(interrupt(), ::testing::ExitedWithCode(130), "");
    EXPECT_TRUE(fs::is_empty(folder_));
  }
}

TEST_F(SignalsDeathTest, JobSeesTheFirstSignalAndTheSecondEndsIt) {
  const auto interrupt = [&](int second) {
    install_signal_handlers();
    const JobSignalScope job;
    if (interrupted()) leave(99);
    ::raise(SIGTERM);
    if (!interrupted()) leave(98);
    ::raise(second);
    leave(75);
  };
  EXPECT_EXIT(interrupt(SIGINT), ::testing::ExitedWithCode(130), "");
  EXPECT_EXIT(interrupt(SIGTERM), ::testing::ExitedWithCode(130), "");
  EXPECT_EXIT(interrupt(SIGHUP), ::testing::ExitedWithCode(75), "");
}

TEST_F(SignalsDeathTest, IgnoredHangupStaysIgnored) {
  const auto hang_up = [] {
    ::signal(SIGHUP, SIG_IGN);
    install_signal_handlers();
    ::raise(SIGHUP);
    leave(interrupted() ? 1 : 0);
  };
  EXPECT_EXIT(hang_up(), ::testing::ExitedWithCode(0), "");
}

TEST_F(SignalsDeathTest, ClosedPipeAndFileSizeLimitAreErrors) {
  const auto write_both = [&] {
    install_signal_handlers();
    int ends[2];
    if (::pipe(ends) != 0) leave(99);
    ::close(ends[0]);
    if (::write(ends[1], "x", 1) != -1 || errno != EPIPE) leave(98);
    const rlimit limit{100, 100};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) leave(97);
    auto writer = FileWriter::create(folder_ + "/out", {});
    if (!writer || !writer->write(std::string(1000, 'x'))) leave(96);
    const auto status = writer->publish();
    leave(!status && status.error().exit == Exit::io && status.error().got == "EFBIG" ? 0 : 1);
  };
  EXPECT_EXIT(write_both(), ::testing::ExitedWithCode(0), "");
}

TEST_F(SignalsDeathTest, MoreTemporariesThanPlacesAreIgnored) {
  const auto many = [&] {
    install_signal_handlers();
    for (int i = 0; i < 40; ++i) {
      const std::string path = folder_ + "/t" + std::to_string(i);
      spill(path, "");
      register_temporary(path.c_str(), false);
      if (i < 20) unregister_temporary(path.c_str());
    }
    ::raise(SIGINT);
    leave(1);
  };
  EXPECT_EXIT(many(), ::testing::ExitedWithCode(130), "");
  EXPECT_FALSE(fs::exists(folder_ + "/t20"));
  EXPECT_TRUE(fs::exists(folder_ + "/t0"));
  EXPECT_TRUE(fs::exists(folder_ + "/t39"));
}

}  // namespace
}  // namespace pare
