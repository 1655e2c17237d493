#include "distill/teacher_cache_header.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "distill/cache_fields.h"
#include "engine/core/checked.h"
#include "engine/core/limits.h"
#include "engine/core/sealed_json.h"
#include "engine/tensor/training_backend.h"

namespace pare {
namespace {

constexpr int64_t kVersion = 1;
constexpr int64_t kMost = int64_t(limits::kDimension) - 1;  // of a count
constexpr double kLeastTemperature = 1e-3, kMostTemperature = 1e3;

Error usage(const char* option, std::string what, std::string got, std::string limit) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = option,
               .what = std::move(what),
               .got = std::move(got),
               .limit = std::move(limit),
               .limit_label = "expected"};
}

Result<TeacherCacheHeader> read_header(const Json& json, const std::string& path) {
  const CacheFields fields(json, path);
  TeacherCacheHeader header;
  PARE_TRY(const int64_t version, fields.integer("version", 0, INT64_MAX));
  if (version != kVersion) {
    Error error = cache_error("TC04", path, "version", "unknown format version", fmt::format("{}", version),
                              fmt::format("{}", kVersion));
    error.exit = Exit::unsupported;
    return error;
  }
  constexpr size_t kHex = 64;
  PARE_TRY(header.teacher_hash, fields.text("teacher_hash", kHex));
  PARE_TRY(header.input_hash, fields.text("input_hash", kHex));
  PARE_TRY(header.vocabulary, fields.integer("vocabulary", 1, int64_t(limits::kVocabulary)));
  PARE_TRY(header.context, fields.integer("context", 1, kMost));
  PARE_TRY(header.windows, fields.integer("windows", 1, kMost));
  PARE_TRY(header.k, fields.integer("k", 1, std::min(kKnownIds, header.vocabulary)));
  PARE_TRY(header.temperature, fields.number("temperature", kLeastTemperature, kMostTemperature));
  PARE_TRY(const std::string type, fields.text("logit_type", 8));
  if (type != "F16" && type != "BF16")
    return cache_error("TC03", path, "logit_type", "not a type of logits", type, "F16 or BF16");
  header.logit_type = type == "F16" ? DType::f16 : DType::bf16;
  PARE_TRY(header.part_windows, fields.integer("part_windows", 1, kMost));
  const Checked window = Checked(header.record().bytes()) * uint64_t(header.context);
  if (!window.valid() || window.value() > uint64_t(INT64_MAX))
    return cache_error("TC03", path, "context", "no file holds such a window",
                       fmt::format("{}", header.context));
  PARE_TRY(const int64_t token_bytes, fields.integer("token_bytes", 1, INT64_MAX));
  if (token_bytes != int64_t(header.record().bytes()))
    return cache_error("TC03", path, "token_bytes", "not what the other fields give",
                       fmt::format("{}", token_bytes), fmt::format("{}", header.record().bytes()));
  return header;
}

}  // namespace

int64_t TeacherCacheHeader::windows_of_part(int64_t part) const {
  return std::min(part_windows, windows - part * part_windows);
}

Status TeacherCacheHeader::resolve(uint64_t part_bytes) {
  if (k < 1 || k > kKnownIds)
    return usage("--top-k", "not a number of ids", fmt::format("{}", k), fmt::format("1 to {}", kKnownIds));
  if (!(temperature >= kLeastTemperature && temperature <= kMostTemperature))
    return usage("--temperature", "out of range", fmt::format("{}", temperature),
                 fmt::format("{} to {}", kLeastTemperature, kMostTemperature));
  k = std::min(k, vocabulary);
  if (part_windows == 0) part_windows = std::max<int64_t>(1, int64_t(part_bytes / window_bytes()));
  part_windows = std::min(part_windows, windows);
  return {};
}

Json TeacherCacheHeader::to_json() const {
  Json json = Json::object();
  json["version"] = kVersion;
  json["teacher_hash"] = teacher_hash;
  json["input_hash"] = input_hash;
  json["vocabulary"] = vocabulary;
  json["context"] = context;
  json["windows"] = windows;
  json["k"] = k;
  json["temperature"] = temperature;
  json["logit_type"] = logit_type == DType::f16 ? "F16" : "BF16";
  json["part_windows"] = part_windows;
  json["token_bytes"] = int64_t(record().bytes());
  return json;
}

Hash128 TeacherCacheHeader::hash() const {
  return xxh3_128(to_json().dump());
}

std::string TeacherCacheIndex::text() const {
  Json sums = Json::array();
  for (const Hash128& sum : part_sums) sums.push_back(sum.hex());
  Json json = Json::object();
  json["header"] = header.to_json();
  json["parts"] = std::move(sums);
  return seal_json(json);
}

Result<TeacherCacheIndex> read_teacher_cache_index(std::string_view text, const std::string& path) {
  PARE_TRY(const Json json, read_sealed(text, path));
  const Json* header = json.find("header");
  const Json* parts = json.find("parts");
  if (header == nullptr || !header->is_object()) return cache_error("TC03", path, "header", "missing");
  if (parts == nullptr || !parts->is_array()) return cache_error("TC03", path, "parts", "missing");
  TeacherCacheIndex index;
  PARE_TRY(index.header, read_header(*header, path));
  if (int64_t(parts->size()) != index.header.parts())
    return cache_error("TC03", path, "parts", "not as many as the windows need",
                       fmt::format("{}", parts->size()), fmt::format("{}", index.header.parts()));
  for (const Json& part : parts->items()) {
    const auto sum = part.is_string() ? Hash128::from_hex(part.as_string()) : std::nullopt;
    if (!sum)
      return cache_error("TC03", path, fmt::format("parts[{}]", index.part_sums.size()), "not a checksum");
    index.part_sums.push_back(*sum);
  }
  return index;
}

Status compare_teacher_cache(const TeacherCacheHeader& header, const TeacherCacheExpected& expected,
                             const std::string& path) {
  const auto text = [&](const char* field, const std::string& got, const std::string& wanted) -> Status {
    if (wanted.empty() || got == wanted) return {};
    return foreign_cache(path, field, got, wanted);
  };
  const auto number = [&](const char* field, int64_t got, int64_t wanted) -> Status {
    if (wanted == 0 || got == wanted) return {};
    return foreign_cache(path, field, fmt::format("{}", got), fmt::format("{}", wanted));
  };
  PARE_CHECK(text("teacher_hash", header.teacher_hash, expected.teacher_hash));
  PARE_CHECK(number("context", header.context, expected.context));
  PARE_CHECK(number("windows", header.windows, expected.windows));
  PARE_CHECK(text("input_hash", header.input_hash, expected.input_hash));
  PARE_CHECK(number("vocabulary", header.vocabulary, expected.vocabulary));
  PARE_CHECK(number("k", header.k, expected.k));
  const double temperature = expected.temperature;
  if (temperature != 0.0 && temperature != 1.0 && temperature != header.temperature)
    return foreign_cache(path, "temperature", fmt::format("{}", header.temperature),
                         fmt::format("{}", temperature));
  return {};
}

std::string teacher_cache_index_path(const std::string& folder) {
  return folder + "/index.json";
}

std::string teacher_cache_part_path(const std::string& folder, int64_t part) {
  return fmt::format("{}/part-{:05}.topk", folder, part);
}

}  // namespace pare
