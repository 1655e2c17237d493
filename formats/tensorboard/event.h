// formats/tensorboard/event.h: the bytes of one TensorBoard event. No protobuf library: a handful of fields
// of five messages is all there is to write.
//
//   Event      1 wall_time: double   2 step: int64   3 file_version: string   5 summary: Summary
//              7 session_log: SessionLog
//   Summary    1 value: repeated Value
//   Value      1 tag: string   2 simple_value: float   8 tensor: TensorProto   9 metadata: SummaryMetadata
//   SessionLog 1 status: enum, START = 1
//
// A record (TFRecord) is: length u64, masked CRC-32C of those 8 bytes u32, the message, masked CRC-32C of the
// message u32; little-endian. masked(c) = rotate right(c, 15) + 0xa282ead8.
// Source: tensorflow/core/util/event.proto, framework/summary.proto, lib/io/record_writer.h.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace pare {

using Scalar = std::pair<std::string, double>;  // (tag, value); stored as f32

// wall_time: seconds since 1970. The first event of every file, with version "brain.Event:2".
std::string version_event(double wall_time);
std::string scalar_event(double wall_time, int64_t step, std::span<const Scalar> scalars);
// Text under a tag, for the text page; Markdown is understood there.
std::string text_event(double wall_time, int64_t step, std::string_view tag, std::string_view text);
// TensorBoard forgets what earlier files of the folder have from `step` on: a resumed run does it again.
std::string session_start_event(double wall_time, int64_t step);

// A message as a record.
std::string framed(std::string_view message);

}  // namespace pare
