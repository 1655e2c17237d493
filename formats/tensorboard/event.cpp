#include "formats/tensorboard/event.h"

#include <bit>

#include "formats/tensorboard/crc32c.h"

namespace pare {
namespace {

// Wire types of the protobuf encoding.
constexpr uint32_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

// The fields of a message, in the order in which they are added.
class Message {
 public:
  void add_varint(uint32_t field, uint64_t value) {
    put_varint(uint64_t(field) << 3 | kVarint);
    put_varint(value);
  }
  void add_double(uint32_t field, double value) {
    put_varint(uint64_t(field) << 3 | kFixed64);
    put_fixed(std::bit_cast<uint64_t>(value), 8);
  }
  void add_float(uint32_t field, float value) {
    put_varint(uint64_t(field) << 3 | kFixed32);
    put_fixed(std::bit_cast<uint32_t>(value), 4);
  }
  void add_bytes(uint32_t field, std::string_view value) {
    put_varint(uint64_t(field) << 3 | kBytes);
    put_varint(value.size());
    bytes_ += value;
  }
  void add(uint32_t field, const Message& value) { add_bytes(field, value.bytes_); }
  std::string take() { return std::move(bytes_); }

 private:
  // Seven bits at a time, lowest first; the top bit says that more follow.
  void put_varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += char(uint8_t(value | 0x80));
    bytes_ += char(uint8_t(value));
  }
  void put_fixed(uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) bytes_ += char(uint8_t(value >> (8 * i)));
  }
  std::string bytes_;
};

Message event(double wall_time, int64_t step) {
  Message message;
  message.add_double(1, wall_time);
  if (step != 0) message.add_varint(2, uint64_t(step));
  return message;
}

uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(std::as_bytes(std::span(bytes.data(), bytes.size())));
  return std::rotr(crc, 15) + 0xa282ead8u;
}

void put_little_endian(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += char(uint8_t(value >> (8 * i)));
}

}  // namespace

std::string version_event(double wall_time) {
  Message message = event(wall_time, 0);
  message.add_bytes(3, "brain.Event:2");
  return message.take();
}

std::string scalar_event(double wall_time, int64_t step, std::span<const Scalar> scalars) {
  Message summary;
  for (const Scalar& scalar : scalars) {
    Message value;
    value.add_bytes(1, scalar.first);
    value.add_float(2, float(scalar.second));
    summary.add(1, value);
  }
  Message message = event(wall_time, step);
  message.add(5, summary);
  return message.take();
}

std::string text_event(double wall_time, int64_t step, std::string_view tag, std::string_view text) {
  constexpr uint64_t kStringType = 7;  // DT_STRING
  Message plugin, metadata, tensor, value, summary;
  plugin.add_bytes(1, "text");
  metadata.add(1, plugin);
  tensor.add_varint(1, kStringType);
  tensor.add(2, Message());  // its shape: a scalar
  tensor.add_bytes(8, text);
  value.add_bytes(1, tag);
  value.add(8, tensor);
  value.add(9, metadata);
  summary.add(1, value);
  Message message = event(wall_time, step);
  message.add(5, summary);
  return message.take();
}

std::string session_start_event(double wall_time, int64_t step) {
  constexpr uint64_t kStart = 1;
  Message session;
  session.add_varint(1, kStart);
  Message message = event(wall_time, step);
  message.add(7, session);
  return message.take();
}

std::string framed(std::string_view message) {
  std::string record;
  record.reserve(message.size() + 16);
  put_little_endian(record, message.size(), 8);
  put_little_endian(record, masked_crc(record), 4);
  record += message;
  put_little_endian(record, masked_crc(message), 4);
  return record;
}

}  // namespace pare
