#include "engine/core/job_folder.h"

#include <fmt/core.h>
#include <time.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "engine/core/assert.h"
#include "engine/core/job_generation.h"
#include "engine/core/job_identity.h"
#include "engine/core/job_store.h"
#include "engine/core/log.h"
#include "engine/core/text.h"

namespace pare {
namespace {

Error no_job_error(const std::string& path) {
  return Error{Exit::locked, "CL16", path, "", "no job to resume; leave out --resume to start one", "", ""};
}

// Does what is there fit the mode? Before the lock is held only what no other process can change for us.
Status admit(const JobListing& listing, JobMode mode, const std::string& path, bool is_locked) {
  if (mode != JobMode::resume && !listing.foreign.empty()) {
    return Error{Exit::usage,
                 "CL17",
                 path,
                 quote(listing.foreign),
                 "no job wrote this file; move it away, or choose another --work-dir",
                 "",
                 ""};
  }
  if (mode == JobMode::resume && !listing.has_job()) return no_job_error(path);
  if (mode == JobMode::fresh && listing.has_job() && is_locked) {
    return Error{Exit::locked,
                 "CL16",
                 path,
                 "",
                 "an interrupted job is here; --resume continues it, --restart discards it",
                 "",
                 ""};
  }
  return {};
}

std::string now_as_text() {
  return format_utc(::time(nullptr));
}

}  // namespace

struct JobFolder::State {
  explicit State(JobStore opened, JobMode opened_as) : store(std::move(opened)), mode(opened_as) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State();

  Status create(const Json& identity);
  Status load(const Json& identity);
  void log_event(const char* name);
  void prune(const std::vector<Hash128>& previous_objects, int64_t previous);

  JobStore store;
  JobMode mode;
  bool started = false;
  bool removed = false;
  // What is in the folder is of no use to anybody unless start() succeeds: there was no job, or it is
  // discarded.
  bool is_unfinished = false;
  std::string id;
  JobGeneration last;  // the last commit
  bool resumed = false, went_back = false, published = false;
  std::string damage;
  std::set<Hash128> known;          // verified here: put, or named by `last`
  bool has_unsynced_names = false;  // in obj/
  std::optional<Error> failure;     // of a commit
};

JobFolder::State::~State() {
  if (started || removed) return;
  if (is_unfinished) {
    const Status ignored = store.clear(/*identity_first=*/true);
    (void)ignored;
  }
  if (store.made_here()) {
    const Status ignored = store.remove_folder();
    (void)ignored;
  }
}

JobFolder::JobFolder(std::unique_ptr<State> state) : state_(std::move(state)) {}
JobFolder::JobFolder(JobFolder&&) noexcept = default;
JobFolder& JobFolder::operator=(JobFolder&&) noexcept = default;
JobFolder::~JobFolder() = default;

std::string job_path_of(const std::string& output) {
  std::string path = output;
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path + ".pare-job";
}

// --- opening and starting ------------------------------------------------------------------------------

Result<JobFolder> JobFolder::open(const std::string& path, JobMode mode) {
  bool has_job = false;
  PARE_TRY(JobStore store,
           JobStore::open(path, mode != JobMode::resume, [&](const JobListing& listing, bool is_locked) {
             has_job = listing.has_job();
             return admit(listing, mode, path, is_locked);
           }));
  auto state = std::make_unique<State>(std::move(store), mode);
  state->is_unfinished = !has_job;
  return JobFolder(std::move(state));
}

Result<JobFolder> JobFolder::open(const std::string& path, const Json& identity, JobMode mode) {
  PARE_TRY(JobFolder job, open(path, mode));
  PARE_CHECK(job.start(identity));
  return job;
}

Status JobFolder::start(const Json& identity) {
  State& s = *state_;
  PARE_ASSERT(!s.started, "[job] {} started twice", path());
  PARE_ASSERT(identity.is_object() && identity.find("job") == nullptr,
              "[job] an identity is an object without a member 'job'");
  Json layout = Json::object(), full = Json::object();
  layout["format"] = kJobFormat;
  full["job"] = std::move(layout);
  for (const auto& [name, value] : identity.members()) full[name] = value;
  PARE_CHECK(s.mode == JobMode::resume ? s.load(full) : s.create(full));
  PARE_TRY(const JobListing listing, s.store.list());
  s.store.remove_temporaries(listing);
  s.started = true;
  s.log_event(s.mode == JobMode::resume ? "resume" : "start");
  return {};
}

Result<Json> JobFolder::stored_identity() const {
  const State& s = *state_;
  if (!s.started && s.is_unfinished) return no_job_error(path());
  PARE_TRY(JobIdentityFile file, read_identity(s.store));
  file.identity.erase("job");
  return std::move(file.identity);
}

// job.json comes last: a folder without it, and without generations, is not yet a job.
Status JobFolder::State::create(const Json& identity) {
  if (!is_unfinished) {
    is_unfinished = true;
    PARE_CHECK(store.clear(/*identity_first=*/true));
  }
  id = xxh3_128(identity.dump()).hex();
  PARE_CHECK(store.make_objects_folder());
  PARE_CHECK(store.write(kJobCurrent, to_json(JobCurrent{}, id)));
  PARE_CHECK(store.write(kJobIdentity, to_json(JobIdentityFile{id, identity})));
  PARE_CHECK(store.sync());
  return store.sync_parent();
}

Status JobFolder::State::load(const Json& identity) {
  PARE_TRY(const JobIdentityFile file, read_identity(store));
  PARE_CHECK(compare_identities(identity, file.identity, store.path()));
  id = file.id;
  PARE_TRY(JobProgress progress, find_progress(store, id));
  PARE_CHECK(store.make_objects_folder());
  last = std::move(progress.generation);
  resumed = last.number > 0;
  went_back = progress.went_back;
  published = progress.published;
  damage = std::move(progress.damage);
  if (!published) known.insert(last.objects.begin(), last.objects.end());
  if (!damage.empty())
    log_warning(fmt::format("{}; continuing from generation {} of the job", damage, last.number));
  return {};
}

const std::string& JobFolder::path() const {
  return state_->store.path();
}
std::string JobFolder::training_log_path() const {
  return state_->store.path_of(kJobTrainingLog);
}
const std::string& JobFolder::id() const {
  return state_->id;
}
bool JobFolder::resumed() const {
  return state_->resumed;
}
const Json& JobFolder::position() const {
  return state_->last.position;
}
int64_t JobFolder::generation() const {
  return state_->last.number;
}
bool JobFolder::went_back() const {
  return state_->went_back;
}
const std::string& JobFolder::damage() const {
  return state_->damage;
}
bool JobFolder::was_published() const {
  return state_->published;
}

// --- objects -------------------------------------------------------------------------------------------

Result<Hash128> JobFolder::put(std::span<const std::byte> bytes) {
  const std::span<const std::byte> parts[] = {bytes};
  return put(parts);
}

// The hash comes first: it is the name, and of an object that is there nothing is written. It costs a few per
// cent of the time of writing.
Result<Hash128> JobFolder::put(std::span<const std::span<const std::byte>> parts) {
  State& s = *state_;
  PARE_ASSERT(s.started && !s.removed, "[job] put without a started job");
  Xxh3Stream stream;
  for (const auto& part : parts) stream.update(part);
  const Hash128 hash = stream.digest();
  if (s.known.contains(hash)) return hash;
  s.has_unsynced_names = true;
  PARE_TRY(bool is_there, s.store.has_object(hash));
  if (is_there) {
    const Status whole = s.store.verify_object(hash);
    if (!whole && whole.error().exit != Exit::malformed) return whole.error();
    is_there = whole.has_value();
  }
  if (!is_there) PARE_CHECK(s.store.write_object(hash, parts));
  s.known.insert(hash);
  return hash;
}

Result<std::shared_ptr<const MappedFile>> JobFolder::get(const Hash128& object) const {
  const State& s = *state_;
  PARE_ASSERT(s.started && !s.removed, "[job] get without a started job");
  PARE_TRY(const bool is_there, s.store.has_object(object));
  if (!is_there) return Error{Exit::malformed, "", s.store.object_path(object), "", "missing", "", ""};
  PARE_CHECK(s.store.verify_object(object));
  PARE_TRY(const InputFile file, s.store.open_object(object));
  return MappedFile::map(file);
}

Result<std::string> JobFolder::parts_folder() {
  State& s = *state_;
  PARE_ASSERT(s.started && !s.removed, "[job] parts without a started job");
  PARE_CHECK(s.store.make_parts_folder());
  return s.store.path_of(kJobParts);
}

// --- progress ------------------------------------------------------------------------------------------

Status JobFolder::commit(Json position, std::vector<Hash128> objects) {
  State& s = *state_;
  PARE_ASSERT(s.started && !s.removed, "[job] commit without a started job");
  if (s.failure) return *s.failure;
  std::sort(objects.begin(), objects.end());
  objects.erase(std::unique(objects.begin(), objects.end()), objects.end());
  for (const Hash128& object : objects)
    PARE_ASSERT(s.known.contains(object), "[job] commit of {}, which was not put here", object.hex());

  JobGeneration next{s.last.number + 1, std::move(position), std::move(objects)};
  const auto write = [&]() -> Status {
    if (s.has_unsynced_names) PARE_CHECK(s.store.sync_objects());
    PARE_CHECK(s.store.write(generation_name(next.number), to_json(next, s.id)));
    PARE_CHECK(s.store.write(kJobCurrent, to_json(JobCurrent{next.number, false}, s.id)));
    // One sync for both names. Should a power cut keep only that of CURRENT, the commit before is used: it is
    // still whole, for nothing has been removed yet.
    return s.store.sync();
  };
  if (const Status written = write(); !written) {
    s.failure = written.error();
    return written;
  }
  s.has_unsynced_names = false;
  const JobGeneration previous = std::exchange(s.last, std::move(next));
  s.prune(previous.objects, previous.number);
  s.log_event("commit");
  return {};
}

// What cannot be removed now is tried again after the next commit; this one is complete.
void JobFolder::State::prune(const std::vector<Hash128>& previous_objects, int64_t previous) {
  const Result<JobListing> listing = store.list();
  if (!listing) return;
  std::vector<int64_t> old_generations;
  for (const int64_t number : listing->generations)
    if (number != last.number && number != previous) old_generations.push_back(number);
  const auto has = [](const std::vector<Hash128>& objects, const Hash128& object) {
    return std::binary_search(objects.begin(), objects.end(), object);
  };
  std::vector<Hash128> old_objects;
  for (const Hash128& object : listing->objects) {
    if (has(last.objects, object) || has(previous_objects, object)) continue;
    old_objects.push_back(object);
    known.erase(object);
  }
  const Status ignored = store.remove(old_generations, old_objects);
  (void)ignored;
}

Status JobFolder::published() {
  State& s = *state_;
  PARE_ASSERT(s.started && !s.removed, "[job] published without a started job");
  if (s.failure) return *s.failure;
  PARE_CHECK(s.store.write(kJobCurrent, to_json(JobCurrent{s.last.number, true}, s.id)));
  PARE_CHECK(s.store.sync());
  s.published = true;
  s.log_event("published");
  return {};
}

Status JobFolder::remove() {
  State& s = *state_;
  PARE_ASSERT(s.started && !s.removed, "[job] remove without a started job");
  s.removed = true;
  PARE_CHECK(s.store.clear(/*identity_first=*/false));
  return s.store.remove_folder();
}

// --- for people ----------------------------------------------------------------------------------------

void JobFolder::event(const Json& event) {
  Json line = Json::object();
  line["time"] = now_as_text();
  for (const auto& [name, value] : event.members()) line[name] = value;
  state_->store.append_event(line.dump());
}

void JobFolder::State::log_event(const char* name) {
  store.append_event(fmt::format(R"({{"time":"{}","event":"{}","generation":{},"objects":{}}})",
                                 now_as_text(), name, last.number, last.objects.size()));
}

Error JobFolder::interrupted_error() const {
  return Error{
      Exit::interrupted, "", path(), "", "interrupted; --resume continues from the last commit", "", ""};
}

}  // namespace pare
