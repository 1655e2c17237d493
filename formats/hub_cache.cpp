#include "formats/hub_cache.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "engine/core/file.h"
#include "engine/core/text.h"
#include "formats/fault.h"

namespace pare {
namespace {

constexpr uint64_t kRefBytes = 4096;

bool is_name_part(std::string_view part) {
  if (part.empty() || part == "." || part == "..") return false;
  return std::all_of(part.begin(), part.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
}

// "main", "refs/pr/1": parts of safe characters.
bool is_revision(std::string_view text) {
  for (;;) {
    const size_t slash = text.find('/');
    if (!is_name_part(text.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    text.remove_prefix(slash + 1);
  }
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::string cache_folder() {
  if (const std::string cache = variable("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const std::string home = variable("HF_HOME"); !home.empty()) return home + "/hub";
  if (const std::string cache = variable("XDG_CACHE_HOME"); !cache.empty()) return cache + "/huggingface/hub";
  return variable("HOME") + "/.cache/huggingface/hub";
}

}  // namespace

std::optional<HubName> parse_hub_name(const std::string& text) {
  const size_t at = text.find('@');
  const std::string_view repository = std::string_view(text).substr(0, at);
  const size_t slash = repository.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  if (!is_name_part(repository.substr(0, slash)) || !is_name_part(repository.substr(slash + 1)))
    return std::nullopt;
  HubName name{std::string(repository), at == std::string::npos ? "main" : text.substr(at + 1)};
  if (!is_revision(name.revision)) return std::nullopt;
  return name;
}

Result<std::string> find_in_hub_cache(const HubName& name) {
  std::string folder = "models--" + name.repository;
  folder.replace(folder.find('/'), 1, "--");
  const std::string repository = cache_folder() + "/" + folder;
  const auto absent = [&](const char* where, const std::string& searched) {
    return fault(Exit::io, "IX20", name.repository, where,
                 "not a path, and not in the local Hugging Face cache; pare never downloads",
                 quote(searched));
  };
  if (!is_directory(repository)) return absent("", repository);

  std::string commit = name.revision;
  const std::string reference = repository + "/refs/" + name.revision;
  if (path_exists(reference) && !is_directory(reference)) {
    PARE_TRY(commit, read_text_file(reference, kRefBytes));
    while (!commit.empty() && (commit.back() == '\n' || commit.back() == '\r' || commit.back() == ' '))
      commit.pop_back();
    if (!is_name_part(commit))
      return malformed("IX20", reference, "", "reference does not name a commit", quote(commit));
  }
  const std::string snapshot = repository + "/snapshots/" + commit;
  if (!is_name_part(commit) || !is_directory(snapshot)) return absent("revision", snapshot);
  return snapshot;
}

}  // namespace pare
