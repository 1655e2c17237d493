#include <fmt/core.h>

#include <cmath>
#include <utility>
#include <vector>

#include "distill/cache_fields.h"
#include "distill/teacher_cache.h"
#include "distill/teacher_cache_part.h"
#include "distill/top_k.h"
#include "engine/core/assert.h"
#include "engine/core/limits.h"
#include "engine/tensor/float_formats.h"

namespace pare {

struct TeacherCacheReader::State {
  TeacherCacheHeader header;
  TopKRecord record;
  double temperature = 1.0;
  std::string folder;
  std::vector<TeacherCachePart> parts;

  State(std::string path, const TeacherCacheHeader& own)
      : header(own), record(own.record()), folder(std::move(path)) {}
};

TeacherCacheReader::TeacherCacheReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
TeacherCacheReader::TeacherCacheReader(TeacherCacheReader&&) noexcept = default;
TeacherCacheReader& TeacherCacheReader::operator=(TeacherCacheReader&&) noexcept = default;
TeacherCacheReader::~TeacherCacheReader() = default;

Result<TeacherCacheReader> TeacherCacheReader::open(const std::string& folder,
                                                    const TeacherCacheExpected& expected) {
  const std::string path = teacher_cache_index_path(folder);
  PARE_TRY(const std::string text, read_text_file(path, limits::kHeaderBytes));
  PARE_TRY(const TeacherCacheIndex index, read_teacher_cache_index(text, path));
  PARE_CHECK(compare_teacher_cache(index.header, expected, path));
  auto state = std::make_unique<State>(folder, index.header);
  state->temperature = expected.temperature == 0.0 ? index.header.temperature : expected.temperature;
  for (size_t part = 0; part < index.part_sums.size(); ++part) {
    PARE_TRY(const InputFile file, InputFile::open(teacher_cache_part_path(folder, int64_t(part))));
    PARE_TRY(TeacherCachePart opened,
             TeacherCachePart::open(file, index.header, int64_t(part), &index.part_sums[part]));
    state->parts.push_back(std::move(opened));
  }
  return TeacherCacheReader(std::move(state));
}

const TeacherCacheHeader& TeacherCacheReader::header() const {
  return state_->header;
}

double TeacherCacheReader::temperature() const {
  return state_->temperature;
}

Status TeacherCacheReader::read(int64_t window, int32_t* ids, float* log_probs) const {
  const State& s = *state_;
  PARE_ASSERT(window >= 0 && window < s.header.windows, "[teacher_cache] window {}", window);
  const TeacherCachePart& part = s.parts[size_t(window / s.header.part_windows)];
  const int64_t within = window % s.header.part_windows;
  PARE_TRY(const std::span<const std::byte> bytes, part.window(within));
  const auto k = size_t(s.header.k);
  TopKRow row;
  for (int64_t token = 0; token < s.header.context; ++token) {
    const auto damaged = [&](const char* what) {
      return cache_error("TC06", s.folder, fmt::format("window {} token {}", window, token), what);
    };
    if (!s.record.read(bytes.subspan(size_t(token) * s.record.bytes(), s.record.bytes()), row))
      return damaged("ids that are not ascending or not of this vocabulary");
    const float log_sum = s.temperature == 1.0 ? row.log_sum : row.log_sum_at_temperature;
    if (!(log_sum >= 0.0f && std::isfinite(log_sum))) return damaged("a sum of probabilities below one");
    for (size_t i = 0; i < k; ++i) {
      const float z =
          s.header.logit_type == DType::f16 ? f16_to_float(row.logits[i]) : bf16_to_float(row.logits[i]);
      if (!(z <= 0.0f && std::isfinite(z))) return damaged("a logit above the largest");
      *ids++ = row.ids[i];
      *log_probs++ = float(double(z) / s.temperature - double(log_sum));
    }
  }
  part.release(within);
  return {};
}

bool teacher_cache_exists(const std::string& folder) {
  return path_exists(teacher_cache_index_path(folder));
}

}  // namespace pare
