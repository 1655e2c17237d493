#include "engine/core/job_generation.h"

#include <fmt/core.h>

#include <algorithm>
#include <optional>

#include "engine/core/job_identity.h"
#include "engine/core/text.h"

namespace pare {
namespace {

Error damaged(const std::string& path, const char* what) {
  return Error{Exit::malformed, "", path, "", what, "", ""};
}

// Members of a file whose checksum is right; still nothing is taken for granted, for a person may edit both.
const std::string* text_member(const Json& body, const char* key) {
  const Json* member = body.find(key);
  return member != nullptr && member->is_string() ? &member->as_string() : nullptr;
}

std::optional<int64_t> count_member(const Json& body, const char* key) {
  const Json* member = body.find(key);
  if (member == nullptr || member->kind() != Json::Kind::integer || member->as_int() < 0) return std::nullopt;
  return member->as_int();
}

Status check_job(const JobStore& store, const Json& body, const std::string& name, const std::string& id) {
  const std::string* job = text_member(body, "job");
  if (job == nullptr) return damaged(store.path_of(name), "names no job");
  if (*job == id) return {};
  Error error = identity_error(store.path(), "job.id", '"' + id + '"', '"' + *job + '"');
  error.what = fmt::format("{} is of another job", name);
  return error;
}

Result<JobCurrent> read_current(const JobStore& store, const std::string& id) {
  PARE_TRY(const Json body, store.read(kJobCurrent));
  PARE_CHECK(check_job(store, body, kJobCurrent, id));
  const auto generation = count_member(body, "generation");
  const Json* published = body.find("published");
  if (!generation || published == nullptr || !published->is_bool())
    return damaged(store.path_of(kJobCurrent), "names no generation");
  return JobCurrent{*generation, published->as_bool()};
}

Result<JobGeneration> read_generation(const JobStore& store, int64_t number, const std::string& id) {
  const std::string name = generation_name(number), path = store.path_of(name);
  PARE_TRY(const Json body, store.read(name));
  PARE_CHECK(check_job(store, body, name, id));
  const Json* position = body.find("position");
  const Json* objects = body.find("objects");
  if (position == nullptr || objects == nullptr || !objects->is_array())
    return damaged(path, "not a whole file of a job");
  if (count_member(body, "generation") != number) return damaged(path, "is that of another generation");
  JobGeneration generation{number, *position, {}};
  for (const Json& object : objects->items()) {
    const auto hash = object.is_string() ? Hash128::from_hex(object.as_string()) : std::nullopt;
    if (!hash) return damaged(path, "names an object that cannot be");
    generation.objects.push_back(*hash);
  }
  return generation;
}

Status verify_objects(const JobStore& store, const JobGeneration& generation, const JobListing& listing) {
  for (const Hash128& object : generation.objects) {
    if (!std::binary_search(listing.objects.begin(), listing.objects.end(), object))
      return damaged(store.object_path(object), "missing");
    PARE_CHECK(store.verify_object(object));
  }
  return {};
}

Result<JobGeneration> read_whole(const JobStore& store, int64_t number, const std::string& id,
                                 const JobListing& listing, bool with_objects) {
  if (!std::binary_search(listing.generations.begin(), listing.generations.end(), number))
    return damaged(store.path_of(generation_name(number)), "missing");
  PARE_TRY(JobGeneration generation, read_generation(store, number, id));
  if (with_objects) PARE_CHECK(verify_objects(store, generation, listing));
  return generation;
}

}  // namespace

Json to_json(const JobIdentityFile& file) {
  Json body = Json::object();
  body["id"] = file.id;
  body["identity"] = file.identity;
  return body;
}

Result<JobIdentityFile> read_identity(const JobStore& store) {
  PARE_TRY(const JobListing listing, store.list());
  if (!listing.identity)
    return damaged(store.path_of(kJobIdentity), "missing; --restart discards what is left of the job");
  PARE_TRY(const Json body, store.read(kJobIdentity));
  const std::string* id = text_member(body, "id");
  const Json* identity = body.find("identity");
  if (id == nullptr || identity == nullptr || !identity->is_object())
    return damaged(store.path_of(kJobIdentity), "not a whole file of a job");
  return JobIdentityFile{*id, *identity};
}

Json to_json(const JobCurrent& current, const std::string& id) {
  Json body = Json::object();
  body["job"] = id;
  body["generation"] = current.generation;
  body["published"] = current.published;
  return body;
}

Json to_json(const JobGeneration& generation, const std::string& id) {
  Json body = Json::object();
  body["job"] = id;
  body["generation"] = generation.number;
  body["position"] = generation.position;
  Json objects = Json::array();
  for (const Hash128& object : generation.objects) objects.push_back(object.hex());
  body["objects"] = std::move(objects);
  return body;
}

Result<JobProgress> find_progress(const JobStore& store, const std::string& id) {
  PARE_TRY(const JobListing listing, store.list());
  JobProgress progress;
  std::optional<Error> first;  // the newest fault
  const auto note = [&](const Error& error) {
    progress.damage += (progress.damage.empty() ? "" : "; ") + format_error(error);
    if (!first) first = error;
  };

  std::optional<int64_t> current;
  const Result<JobCurrent> read = listing.current
                                      ? read_current(store, id)
                                      : Result<JobCurrent>(damaged(store.path_of(kJobCurrent), "missing"));
  if (read) {
    current = read->generation;
    progress.published = read->published;
    if (current == 0) return progress;
  } else if (read.error().exit == Exit::malformed) {
    note(read.error());
  } else {
    return read.error();
  }

  // Without CURRENT the newest is meant: a generation is complete before CURRENT names it.
  std::vector<int64_t> candidates;
  if (current) candidates.push_back(*current);
  for (auto number = listing.generations.rbegin(); number != listing.generations.rend(); ++number) {
    if (!current || *number < *current) candidates.push_back(*number);
  }
  for (const int64_t number : candidates) {
    // A job that is published needs no objects; it may be in the middle of its removal.
    Result<JobGeneration> generation = read_whole(store, number, id, listing, !progress.published);
    if (generation) {
      progress.went_back = number != candidates.front();
      progress.generation = *std::move(generation);
      return progress;
    }
    if (generation.error().exit != Exit::malformed) return generation.error();
    note(generation.error());
  }
  if (progress.published) {
    progress.damage.clear();
    return progress;
  }
  first->what += "; no older generation is whole; --restart begins again";
  return *first;
}

}  // namespace pare
