// Event files, read back by a decoder that shares nothing with the writer: a bitwise CRC, and protobuf fields
// by number.
#include "formats/tensorboard/event_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <vector>

#include "formats/tensorboard/crc32c.h"
#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

using testing::ElementsAre;
using testing::Pair;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// --- the decoder ---------------------------------------------------------------------------------------

uint32_t slow_crc(const std::string& text) {
  uint32_t crc = 0xffffffff;
  for (const char c : text) {
    for (int bit = 0; bit < 8; ++bit) {
      const uint32_t in = (uint8_t(c) >> bit) & 1;
      crc = (crc >> 1) ^ ((crc ^ in) & 1 ? 0x82f63b78 : 0);
    }
  }
  return ~crc;
}

uint32_t unmasked(uint32_t masked) {
  const uint32_t rotated = masked - 0xa282ead8;
  return (rotated >> 17) | (rotated << 15);
}

template <typename T>
T number_at(const std::string& text, size_t at) {
  T value{};
  EXPECT_LE(at + sizeof value, text.size());
  std::memcpy(&value, text.data() + at, sizeof value);
  return value;
}

struct Field {
  uint64_t number = 0;
  std::string bytes;  // of strings and messages; else eight, four bytes or the varint as eight
  uint64_t integer() const { return number_at<uint64_t>(bytes, 0); }
};

uint64_t varint(const std::string& text, size_t& at) {
  uint64_t value = 0;
  for (int shift = 0; at < text.size(); shift += 7) {
    const auto byte = uint8_t(text[at++]);
    value |= uint64_t(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  ADD_FAILURE() << "a varint without an end";
  return value;
}

std::vector<Field> fields_of(const std::string& text) {
  std::vector<Field> fields;
  for (size_t at = 0; at < text.size();) {
    const uint64_t tag = varint(text, at);
    Field field{tag >> 3, {}};
    size_t size = 0;
    switch (tag & 7) {
      case 0: {
        const uint64_t value = varint(text, at);
        field.bytes.assign(reinterpret_cast<const char*>(&value), sizeof value);
        break;
      }
      case 1:
        size = 8;
        break;
      case 2:
        size = size_t(varint(text, at));
        break;
      case 5:
        size = 4;
        break;
      default:
        ADD_FAILURE() << "wire type " << (tag & 7);
        return fields;
    }
    EXPECT_LE(at + size, text.size());
    if (size > 0) field.bytes = text.substr(at, size);
    at += size;
    fields.push_back(field);
  }
  return fields;
}

// The messages of a file, every checksum checked.
std::vector<std::string> records_of(const std::string& file) {
  std::vector<std::string> records;
  for (size_t at = 0; at < file.size();) {
    const auto size = number_at<uint64_t>(file, at);
    EXPECT_EQ(unmasked(number_at<uint32_t>(file, at + 8)), slow_crc(file.substr(at, 8)));
    records.push_back(file.substr(at + 12, size));
    EXPECT_EQ(unmasked(number_at<uint32_t>(file, at + 12 + size)), slow_crc(records.back()));
    at += size + 16;
  }
  return records;
}

struct Decoded {
  double wall_time = 0.0;
  int64_t step = 0;
  std::string version;
  std::vector<std::pair<std::string, float>> scalars;
  std::map<std::string, std::string> texts;
  bool starts_session = false;
};

Decoded decode(const std::string& record) {
  Decoded event;
  for (const Field& field : fields_of(record)) {
    if (field.number == 1) event.wall_time = number_at<double>(field.bytes, 0);
    if (field.number == 2) event.step = int64_t(field.integer());
    if (field.number == 3) event.version = field.bytes;
    if (field.number == 7) event.starts_session = fields_of(field.bytes).at(0).integer() == 1;
    if (field.number != 5) continue;
    for (const Field& value : fields_of(field.bytes)) {
      EXPECT_EQ(value.number, 1u);
      std::string tag, text, plugin;
      for (const Field& part : fields_of(value.bytes)) {
        if (part.number == 1) tag = part.bytes;
        if (part.number == 2) event.scalars.emplace_back(tag, number_at<float>(part.bytes, 0));
        if (part.number == 8)
          for (const Field& of_tensor : fields_of(part.bytes))
            if (of_tensor.number == 8) text = of_tensor.bytes;
        if (part.number == 9) plugin = fields_of(fields_of(part.bytes).at(0).bytes).at(0).bytes;
      }
      if (plugin == "text") event.texts[tag] = text;
    }
  }
  return event;
}

std::vector<Decoded> events_of(const std::string& path) {
  std::vector<Decoded> events;
  for (const std::string& record : records_of(test::slurp(path))) events.push_back(decode(record));
  return events;
}

template <typename T>
T checked(Result<T> result) {
  if (!result) ADD_FAILURE() << format_error(result.error());
  return *std::move(result);
}
void checked(const Status& status) {
  if (!status) ADD_FAILURE() << format_error(status.error());
}

// --- tests ---------------------------------------------------------------------------------------------

// RFC 3720, appendix B.4, and the check value of the catalogue of CRC algorithms.
TEST(Crc32c, PublishedValues) {
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\0'))), 0x8a9136aau);
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\xff'))), 0x62a8ab43u);
  std::string up, down;
  for (int i = 0; i < 32; ++i) {
    up += char(i);
    down += char(31 - i);
  }
  EXPECT_EQ(crc32c(bytes_of(up)), 0x46dd794eu);
  EXPECT_EQ(crc32c(bytes_of(down)), 0x113fdb5cu);
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283u);
  EXPECT_EQ(crc32c({}), 0u);
}

TEST(EventFile, ScalarsComeBack) {
  const std::string folder = test::temporary_folder() + "/runs/one";  // neither is there
  EventFile file = checked(EventFile::create(folder, 1700000000.25));
  EXPECT_EQ(file.path(), folder + "/events.out.tfevents.1700000000.pare.0");
  const Scalar first[] = {{"loss", 2.5}, {"validation/perplexity", 31.0625}}, second[] = {{"loss", -0.125}};
  checked(file.scalars(1700000001.5, 0, first));
  checked(file.scalars(1700000002.5, int64_t(1) << 40, second));
  const auto events = events_of(file.path());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[0].wall_time, 1700000000.25);
  EXPECT_EQ(events[1].wall_time, 1700000001.5);
  EXPECT_EQ(events[1].step, 0);
  EXPECT_THAT(events[1].scalars, ElementsAre(Pair("loss", 2.5f), Pair("validation/perplexity", 31.0625f)));
  EXPECT_EQ(events[2].step, int64_t(1) << 40);
  EXPECT_THAT(events[2].scalars, ElementsAre(Pair("loss", -0.125f)));
}

// The version event of a file by TensorFlow's own writer, for the same time: fields 1 and 3, then the frame.
TEST(EventFile, BytesOfTheVersionEvent) {
  const std::string message = version_event(0.0);
  EXPECT_EQ(message, std::string("\x09\0\0\0\0\0\0\0\0\x1a\x0d", 11) + "brain.Event:2");
  const std::string record = framed(message);
  EXPECT_EQ(record.substr(0, 8), std::string("\x18\0\0\0\0\0\0\0", 8));
  // Of a length of 24, as every such file begins.
  EXPECT_EQ(record.substr(8, 4), "\xa3\x7f\x4b\x22");
  EXPECT_EQ(record.size(), message.size() + 16);
}

TEST(EventFile, EveryEventIsThereAtOnce) {
  EventFile file = checked(EventFile::create(test::temporary_folder(), 5.0));
  const Scalar scalars[] = {{"loss", 1.0}};
  for (int64_t step = 0; step < 3; ++step) {
    checked(file.scalars(6.0, step, scalars));
    EXPECT_EQ(events_of(file.path()).size(), size_t(step) + 2);
  }
}

TEST(EventFile, AResumedRunHasItsOwnFile) {
  const std::string folder = test::temporary_folder();
  const EventFile first = checked(EventFile::create(folder, 7.0));
  EventFile second = checked(EventFile::create(folder, 7.5));
  EXPECT_EQ(test::names_in(folder), (std::set<std::string>{"events.out.tfevents.0000000007.pare.0",
                                                           "events.out.tfevents.0000000007.pare.1"}));
  checked(second.session_start(8.0, 42));
  checked(second.text(8.0, 42, "options", "lr 0.001"));
  const auto events = events_of(second.path());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_TRUE(events[1].starts_session);
  EXPECT_EQ(events[1].step, 42);
  EXPECT_THAT(events[2].texts, ElementsAre(Pair("options", "lr 0.001")));
  EXPECT_EQ(events_of(first.path()).size(), 1u);
}

TEST(EventFile, ErrorsOfTheDisk) {
  const std::string folder = test::temporary_folder();
  test::spill(folder + "/file", "");
  const auto below_a_file = EventFile::create(folder + "/file", 1.0);
  ASSERT_FALSE(below_a_file);
  EXPECT_EQ(below_a_file.error().exit, Exit::io);
  EventFile file = checked(EventFile::create(folder, 1.0));
  const test::FaultScope scope(
      [](std::string_view call, const std::string&) { return call == "write" ? ENOSPC : 0; });
  const Scalar scalars[] = {{"loss", 1.0}};
  const Status full = file.scalars(1.0, 1, scalars);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().exit, Exit::io);
  EXPECT_EQ(full.error().path, file.path());
}

}  // namespace
}  // namespace pare
