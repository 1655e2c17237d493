#include "engine/core/job_listing.h"

#include <fcntl.h>
#include <fmt/core.h>

#include <algorithm>
#include <cerrno>

#include "engine/core/file.h"
#include "engine/core/text.h"

namespace pare {
namespace {

bool is_number(std::string_view text) {
  const auto number = parse_int(text);
  return number && *number > 0 && text == fmt::format("{}", *number);
}

// The number in `gen-<n>.json`, 0 for any other name.
int64_t generation_of(std::string_view name) {
  constexpr std::string_view kPrefix = "gen-", kSuffix = ".json";
  if (name.size() <= kPrefix.size() + kSuffix.size() || !name.starts_with(kPrefix) ||
      !name.ends_with(kSuffix)) {
    return 0;
  }
  const auto number = parse_int(name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size()));
  return number && *number > 0 && generation_name(*number) == name ? *number : 0;
}

Result<std::vector<std::string>> names_in(int folder, const std::string& path) {
  const int listed = io::open_at(folder, ".", O_RDONLY | O_DIRECTORY, 0, path);
  if (listed < 0) return io::system_error(path, "open the directory", errno);
  return io::list_open_folder(listed, path);
}

void add_foreign(JobListing& listing, const std::string& name) {
  if (listing.foreign.empty()) listing.foreign = name;
}

Status list_objects(JobListing& listing, int folder, const std::string& path) {
  const std::string shown = path + "/" + kJobObjects;
  const io::Descriptor objects = open_job_objects(folder, path);
  if (!objects.is_open()) {
    if (errno != ENOTDIR && errno != ELOOP) return io::system_error(shown, "open the directory", errno);
    listing.has_objects_folder = false;
    add_foreign(listing, kJobObjects);
    return {};
  }
  PARE_TRY(const std::vector<std::string> names, names_in(objects.get(), shown));
  for (const std::string& name : names) {  // sorted, and so are the hashes
    if (const auto hash = Hash128::from_hex(name)) {
      listing.objects.push_back(*hash);
    } else if (is_temporary_name(name)) {
      listing.temporaries.push_back(fmt::format("{}/{}", kJobObjects, name));
    } else {
      add_foreign(listing, fmt::format("{}/{}", kJobObjects, name));
    }
  }
  return {};
}

Status list_parts(JobListing& listing, int folder, const std::string& path) {
  const std::string shown = path + "/" + kJobParts;
  const io::Descriptor parts(io::open_at(folder, kJobParts, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, shown));
  if (!parts.is_open()) {
    if (errno != ENOTDIR && errno != ELOOP) return io::system_error(shown, "open the directory", errno);
    listing.has_parts_folder = false;
    add_foreign(listing, kJobParts);
    return {};
  }
  PARE_TRY(const std::vector<std::string> names, names_in(parts.get(), shown));
  for (const std::string& name : names) {
    const size_t dot = name.find('.');
    const std::string_view rest = dot == std::string::npos ? "" : std::string_view(name).substr(dot);
    struct stat status {};
    if (io::get_stat_at(parts.get(), name, status, AT_SYMLINK_NOFOLLOW, shown + "/" + name) != 0)
      return io::system_error(shown + "/" + name, "stat", errno);
    if (is_temporary_name(name)) {
      listing.temporaries.push_back(fmt::format("{}/{}", kJobParts, name));
    } else if (!is_number(std::string_view(name).substr(0, std::min(dot, name.size())))) {
      add_foreign(listing, fmt::format("{}/{}", kJobParts, name));
    } else if (rest == ".pare.pare-job" && S_ISDIR(status.st_mode)) {
      listing.part_jobs.push_back(name);
    } else if ((rest == ".pare" || rest == ".pare.report.json" || rest == ".pare.log.jsonl") &&
               S_ISREG(status.st_mode)) {
      listing.parts.push_back(name);
    } else {
      add_foreign(listing, fmt::format("{}/{}", kJobParts, name));
    }
  }
  return {};
}

}  // namespace

std::string generation_name(int64_t number) {
  return fmt::format("gen-{}.json", number);
}

io::Descriptor open_job_objects(int folder, const std::string& path) {
  return io::Descriptor(
      io::open_at(folder, kJobObjects, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, path + "/" + kJobObjects));
}

Result<JobListing> list_job_folder(int folder, const std::string& path) {
  JobListing listing;
  PARE_TRY(const std::vector<std::string> names, names_in(folder, path));
  for (const std::string& name : names) {
    if (const int64_t generation = generation_of(name); generation > 0) {
      listing.generations.push_back(generation);
    } else if (name == kJobIdentity) {
      listing.identity = true;
    } else if (name == kJobCurrent) {
      listing.current = true;
    } else if (name == kJobObjects) {
      listing.has_objects_folder = true;
    } else if (name == kJobParts) {
      listing.has_parts_folder = true;
    } else if (is_temporary_name(name)) {
      listing.temporaries.push_back(name);
    } else if (name != kJobLock && name != kJobEvents && name != kJobTrainingLog) {
      add_foreign(listing, name);
    }
  }
  std::sort(listing.generations.begin(), listing.generations.end());
  if (listing.has_objects_folder) PARE_CHECK(list_objects(listing, folder, path));
  if (listing.has_parts_folder) PARE_CHECK(list_parts(listing, folder, path));
  return listing;
}

}  // namespace pare
