#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>

#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

using test::FaultScope;
using test::spill;

std::span<std::byte> bytes_of(std::string& text) {
  return std::as_writable_bytes(std::span(text));
}

TEST(InputFile, ReadsRangesAndAll) {
  const std::string path = test::temporary_folder() + "/f";
  spill(path, "0123456789");
  auto file = InputFile::open(path);
  ASSERT_TRUE(file);
  EXPECT_EQ(file->size(), 10u);
  std::string part(4, ' ');
  ASSERT_TRUE(file->read_at(3, bytes_of(part)));
  EXPECT_EQ(part, "3456");
  EXPECT_EQ(*file->read_all(10), "0123456789");
  EXPECT_EQ(file->read_all(9).error().exit, Exit::resource);
  InputFile moved = *std::move(file);
  EXPECT_EQ(*moved.read_all(10), "0123456789");
  EXPECT_EQ(*read_text_file(path, 100), "0123456789");
}

TEST(InputFile, ShownPathStandsInErrors) {
  EXPECT_EQ(InputFile::open("/nonexistent/x", "m/x").error().path, "m/x");
  const Error error = InputFile::open("/nonexistent/x").error();
  EXPECT_EQ(error.exit, Exit::io);
  EXPECT_EQ(format_error(error), "/nonexistent/x: cannot open: no such file or directory (got ENOENT)");
}

TEST(InputFile, OnlyRegularFiles) {
  const std::string folder = test::temporary_folder();
  ASSERT_EQ(::mkfifo((folder + "/fifo").c_str(), 0600), 0);
  const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (folder + "/sock").copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::close(listener);
  EXPECT_EQ(InputFile::open(folder + "/fifo").error().got, "FIFO");
  EXPECT_EQ(InputFile::open(folder).error().got, "directory");
  EXPECT_EQ(InputFile::open("/dev/zero").error().got, "character device");
  EXPECT_EQ(InputFile::open(folder).error().exit, Exit::malformed);
  EXPECT_EQ(InputFile::open(folder + "/sock").error().exit, Exit::io);  // ENXIO from the kernel
}

TEST(InputFile, NoticesChanges) {
  const std::string path = test::temporary_folder() + "/f";
  spill(path, "0123456789");
  const auto file = InputFile::open(path);
  ASSERT_TRUE(file->check_unchanged());
  ASSERT_EQ(::truncate(path.c_str(), 4), 0);
  EXPECT_EQ(file->check_unchanged().error().exit, Exit::io);
  EXPECT_EQ(file->check_unchanged().error().where, "size");
  std::string part(8, ' ');
  EXPECT_EQ(file->read_at(0, bytes_of(part)).error().exit, Exit::io);
  ASSERT_EQ(::truncate(path.c_str(), 10), 0);
  EXPECT_EQ(file->check_unchanged().error().where, "mtime");
  EXPECT_FALSE(file->read_all(100));
}

TEST(InputFile, ShortReadsAndInterruptionsAreInvisible) {
  const std::string path = test::temporary_folder() + "/f";
  std::string text;
  for (int i = 0; i < 5000; ++i) text += std::to_string(i);
  spill(path, text);
  int calls = 0;
  const FaultScope fault([&](std::string_view, const std::string&) {
    ++calls;
    return calls % 3 == 0 ? EINTR : kShortTransfer;
  });
  const auto read = read_text_file(path, 1 << 20);
  ASSERT_TRUE(read) << format_error(read.error());
  EXPECT_EQ(*read, text);
  EXPECT_GT(calls, 10);
}

TEST(InputFile, ErrorsOfEachCallAreReported) {
  const std::string path = test::temporary_folder() + "/f";
  spill(path, "0123456789");
  for (const char* call : {"open", "fstat", "pread"}) {
    const FaultScope fault([&](std::string_view name, const std::string&) { return name == call ? EIO : 0; });
    const auto read = read_text_file(path, 100);
    ASSERT_FALSE(read) << call;
    EXPECT_EQ(read.error().exit, Exit::io) << call;
    EXPECT_EQ(read.error().got, "EIO") << call;
  }
  const FaultScope fault([](std::string_view, const std::string&) { return EMFILE; });
  EXPECT_EQ(read_text_file(path, 100).error().exit, Exit::resource);
}

TEST(InputFile, EndlessInterruptionIsAnErrorNotAHang) {
  const FaultScope fault([](std::string_view, const std::string&) { return EINTR; });
  EXPECT_EQ(read_text_file("/etc/passwd", 1 << 20).error().exit, Exit::io);
}

TEST(MappedFile, MapsWholeFiles) {
  const std::string path = test::temporary_folder() + "/f";
  const std::string text(10'000, 'm');
  spill(path, text);
  const auto file = InputFile::open(path);
  const auto mapped = MappedFile::map(*file);
  ASSERT_TRUE(mapped);
  const auto bytes = (*mapped)->bytes();
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), text);
  (*mapped)->will_need(100, 1 << 20);
  (*mapped)->drop(0, 10'000);
  (*mapped)->drop(20'000, 1);
  read_ahead(bytes.subspan(5000, 3000));
  read_ahead({});
  read_ahead(std::as_bytes(std::span(text)));  // no mapping: nothing happens to it
  EXPECT_EQ(text, std::string(10'000, 'm'));
  EXPECT_EQ(static_cast<char>(bytes[9'999]), 'm');
  spill(path, "");
  const auto empty = InputFile::open(path);
  EXPECT_EQ((*MappedFile::map(*empty))->bytes().size(), 0u);
  EXPECT_FALSE(MappedFile::map(*file)) << "was cut since it was opened";
}

TEST(Folders, ListIsSorted) {
  const std::string folder = test::temporary_folder();
  for (const char* name : {"b", "a", ".hidden", "c"}) spill(folder + "/" + name, "");
  EXPECT_EQ(*list_directory(folder), (std::vector<std::string>{".hidden", "a", "b", "c"}));
  EXPECT_EQ(list_directory(folder + "/a").error().exit, Exit::io);
  EXPECT_TRUE(is_directory(folder));
  EXPECT_FALSE(is_directory(folder + "/a"));
  EXPECT_TRUE(path_exists(folder + "/a"));
  EXPECT_FALSE(path_exists(folder + "/z"));
  const FaultScope fault(
      [](std::string_view call, const std::string&) { return call == "readdir" ? EIO : 0; });
  EXPECT_EQ(list_directory(folder).error().got, "EIO");
}

}  // namespace
}  // namespace pare
