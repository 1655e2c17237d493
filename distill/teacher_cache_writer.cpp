#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "distill/cache_fields.h"
#include "distill/teacher_cache.h"
#include "distill/teacher_cache_part.h"
#include "distill/top_k.h"
#include "engine/core/assert.h"
#include "engine/core/folder.h"
#include "engine/core/parallel.h"

namespace pare {

struct TeacherCacheWriter::State {
  std::string folder;
  TeacherCacheHeader header;
  TopKRecord record;
  std::optional<JobFolder> job;
  std::vector<Hash128> part_sums;  // of the parts that are on disk
  std::vector<std::byte> part;     // the one that is being filled
  int64_t rows = 0;                // of all rows, how many were put

  State(std::string path, const TeacherCacheHeader& own)
      : folder(std::move(path)), header(own), record(own.record()) {}

  int64_t complete_windows() const { return rows / header.context; }
  int64_t first_of_part() const {
    return std::min(int64_t(part_sums.size()) * header.part_windows, header.windows);
  }
  int64_t windows_of_part() const { return header.windows_of_part(int64_t(part_sums.size())); }
  size_t bytes_of(int64_t windows) const { return size_t(windows) * header.window_bytes(); }

  Status encode(const float* logits, int64_t count, int64_t stride, std::byte* out);
  Status finish_part();
  Status commit(const std::optional<Hash128>& unfinished);
  Status restore();
};

// A finder has scratch memory, so several rows share one.
Status TeacherCacheWriter::State::encode(const float* logits, int64_t count, int64_t stride, std::byte* out) {
  constexpr int64_t kRowsAtOnce = 8;
  const int64_t pieces = (count + kRowsAtOnce - 1) / kRowsAtOnce;
  std::vector<int64_t> bad(size_t(pieces), -1);
  parallel_for(pieces, [&](int64_t piece) {
    TopKFinder finder(header.vocabulary, header.k, header.temperature, header.logit_type);
    TopKRow row;
    const int64_t end = std::min(count, (piece + 1) * kRowsAtOnce);
    for (int64_t r = piece * kRowsAtOnce; r < end; ++r) {
      if (!finder.find(logits + r * stride, row)) {
        bad[size_t(piece)] = r;
        return;
      }
      record.write(row, std::span(out + size_t(r) * record.bytes(), record.bytes()));
    }
  });
  for (const int64_t row : bad) {
    if (row < 0) continue;
    return Error{.exit = Exit::numeric,
                 .rule = "NU16",
                 .path = folder,
                 .where = fmt::format("window {} token {}", (rows + row) / header.context,
                                      (rows + row) % header.context),
                 .what = "a logit of the teacher is not finite"};
  }
  return {};
}

Status TeacherCacheWriter::State::finish_part() {
  const auto number = int64_t(part_sums.size());
  PARE_TRY(const Hash128 sum,
           write_teacher_cache_part(teacher_cache_part_path(folder, number), header, number,
                                    std::span(part).first(bytes_of(windows_of_part()))));
  part_sums.push_back(sum);
  return commit(std::nullopt);
}

Status TeacherCacheWriter::State::commit(const std::optional<Hash128>& unfinished) {
  Json sums = Json::array();
  for (const Hash128& sum : part_sums) sums.push_back(sum.hex());
  Json position = Json::object();
  position["parts"] = std::move(sums);
  position["windows"] = complete_windows() - first_of_part();
  std::vector<Hash128> objects;
  if (unfinished) {
    position["unfinished"] = unfinished->hex();
    objects.push_back(*unfinished);
  }
  return job->commit(std::move(position), std::move(objects));
}

// The position was written by commit() and is verified by the job folder; the parts lie outside of it.
Status TeacherCacheWriter::State::restore() {
  const Json& position = job->position();
  if (position.is_null()) return {};
  const auto damaged = [&](std::string field) {
    return cache_error("TC03", job->path(), std::move(field), "not a position of this job");
  };
  const CacheFields fields(position, job->path());
  const Json* parts = position.find("parts");
  if (parts == nullptr || !parts->is_array() || int64_t(parts->size()) > header.parts())
    return damaged("parts");
  for (const Json& entry : parts->items()) {
    const auto sum = entry.is_string() ? Hash128::from_hex(entry.as_string()) : std::nullopt;
    if (!sum) return damaged("parts");
    const auto number = int64_t(part_sums.size());
    PARE_TRY(const InputFile file, InputFile::open(teacher_cache_part_path(folder, number)));
    PARE_TRY(const TeacherCachePart opened, TeacherCachePart::open(file, header, number, &*sum));
    for (int64_t i = 0; i < header.windows_of_part(number); ++i) {
      PARE_TRY(const auto window, opened.window(i));
      static_cast<void>(window);
      opened.release(i);
    }
    part_sums.push_back(*sum);
  }
  const int64_t left = header.windows - first_of_part();
  PARE_TRY(const int64_t windows, fields.integer("windows", 0, std::min(header.part_windows, left)));
  rows = (first_of_part() + windows) * header.context;
  if (windows == 0) return {};
  PARE_TRY(const std::string name, fields.text("unfinished", 32));
  const auto hash = Hash128::from_hex(name);
  if (!hash) return damaged("unfinished");
  PARE_TRY(const auto object, job->get(*hash));
  if (object->bytes().size() != bytes_of(windows)) return damaged("unfinished");
  part.resize(bytes_of(windows_of_part()));
  std::copy(object->bytes().begin(), object->bytes().end(), part.begin());
  return {};
}

TeacherCacheWriter::TeacherCacheWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
TeacherCacheWriter::TeacherCacheWriter(TeacherCacheWriter&&) noexcept = default;
TeacherCacheWriter& TeacherCacheWriter::operator=(TeacherCacheWriter&&) noexcept = default;
TeacherCacheWriter::~TeacherCacheWriter() = default;

Result<TeacherCacheWriter> TeacherCacheWriter::open(const std::string& folder,
                                                    const TeacherCacheHeader& header, JobMode mode,
                                                    const Json& identity) {
  PARE_ASSERT(header.part_windows >= 1 && header.windows >= 1, "[teacher_cache] header without resolve()");
  auto state = std::make_unique<State>(folder, header);
  PARE_TRY(state->job, JobFolder::open(job_path_of(folder), mode));
  const bool exists = teacher_cache_exists(folder);
  if (exists && mode != JobMode::resume) {
    return Error{.exit = Exit::usage,
                 .rule = "CL02",
                 .path = folder,
                 .what = "holds a complete cache already; use it, or name another folder"};
  }
  Json all = header.to_json();
  for (const Json::Member& member : identity.members()) all[member.first] = member.second;
  PARE_CHECK(state->job->start(all));
  PARE_CHECK(make_folders(folder));
  PARE_CHECK(state->restore());
  return TeacherCacheWriter(std::move(state));
}

const TeacherCacheHeader& TeacherCacheWriter::header() const {
  return state_->header;
}

int64_t TeacherCacheWriter::next_window() const {
  return state_->complete_windows();
}

Status TeacherCacheWriter::put(int64_t window, const float* logits, int64_t rows, int64_t stride) {
  State& s = *state_;
  PARE_ASSERT(window == next_window(), "[teacher_cache] window {}, expected {}", window, next_window());
  PARE_ASSERT(s.rows + rows <= s.header.windows * s.header.context, "[teacher_cache] {} rows too many", rows);
  if (stride == 0) stride = s.header.vocabulary;
  while (rows > 0) {
    s.part.resize(s.bytes_of(s.windows_of_part()));
    const int64_t done = s.rows - s.first_of_part() * s.header.context;
    const int64_t room = s.windows_of_part() * s.header.context - done;
    const int64_t count = std::min(rows, room);
    PARE_CHECK(s.encode(logits, count, stride, s.part.data() + size_t(done) * s.record.bytes()));
    s.rows += count;
    rows -= count;
    logits += count * stride;
    if (count == room) PARE_CHECK(s.finish_part());
  }
  return {};
}

Status TeacherCacheWriter::checkpoint() {
  State& s = *state_;
  const int64_t windows = s.complete_windows() - s.first_of_part();
  if (windows <= 0) return {};  // the last commit was that of a part
  PARE_TRY(const Hash128 object, s.job->put(std::span<const std::byte>(s.part).first(s.bytes_of(windows))));
  return s.commit(object);
}

Error TeacherCacheWriter::interrupted_error() const {
  return state_->job->interrupted_error();
}

Status TeacherCacheWriter::finish() {
  State& s = *state_;
  PARE_ASSERT(next_window() == s.header.windows, "[teacher_cache] {} of {} windows", next_window(),
              s.header.windows);
  // A run that was killed behind this point finds its own index.
  const TeacherCacheIndex index{s.header, s.part_sums};
  PARE_TRY(FileWriter writer, FileWriter::create(teacher_cache_index_path(s.folder), {.force = true}));
  PARE_CHECK(writer.write(index.text()));
  PARE_CHECK(writer.publish());
  PARE_CHECK(s.job->published());
  return s.job->remove();
}

}  // namespace pare
