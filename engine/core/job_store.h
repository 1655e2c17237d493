// engine/core/job_store.h: the files of a job folder: how one is written whole, verified and deleted. Knows
// nothing of what generations mean. Internal to core, behind JobFolder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/file.h"
#include "engine/core/job_listing.h"
#include "engine/core/json.h"
#include "engine/core/output_target.h"

namespace pare {

class JobStore {
 public:
  // Opens the folder, or makes it if `create`, and locks it without waiting. `admit` sees what is there, once
  // before anything is made or locked and once (true) with the lock held, and may refuse.
  //   exit 8: RL10, the lock is held; exit 5: no parent folder, ...; or the error of `admit`
  using Admit = std::function<Status(const JobListing&, bool is_locked)>;
  static Result<JobStore> open(const std::string& path, bool create, const Admit& admit);

  const std::string& path() const { return inside_.path; }
  std::string path_of(const std::string& name) const { return inside_.beside(name); }  // for messages
  bool made_here() const { return made_here_; }
  Result<JobListing> list() const { return list_job_folder(inside_.folder.get(), path()); }

  // A small file, whole under its name when this returns, in place of the one before. Durable after sync().
  Status write(const std::string& name, const Json& body);
  Result<Json> read(const std::string& name) const;  // exit 3 when it is damaged

  // Make the folder for objects, for parts, if it is missing.
  Status make_objects_folder();
  Status make_parts_folder();
  Result<bool> has_object(const Hash128& hash) const;
  // Writes the bytes of an object and syncs them, in place of a damaged one of that name.
  Status write_object(const Hash128& hash, std::span<const std::span<const std::byte>> parts);
  // Exit 3 when the bytes are not those of the name.
  Status verify_object(const Hash128& hash) const;
  Result<InputFile> open_object(const Hash128& hash) const;
  std::string object_path(const Hash128& hash) const;

  // Make names durable: of objects, of the files here, of this folder in the one above.
  Status sync_objects();
  Status sync();
  Status sync_parent();

  // The first error when something cannot be deleted; the rest is deleted all the same.
  Status remove(const std::vector<int64_t>& generations, const std::vector<Hash128>& objects);
  void remove_temporaries(const JobListing& listing);
  // Deletes everything that a job writes, in an order that leaves a published job recognisable until the end;
  // with `identity_first` one that is given up is unrecognisable at once.
  Status clear(bool identity_first);
  // The folder itself, after clear(), with its lock; one that still holds foreign files stays, with a
  // warning.
  Status remove_folder();

  // One line at the end of events.jsonl, in one write. Errors are ignored.
  void append_event(std::string line);

 private:
  JobStore() = default;
  Status lock(const Admit& admit);
  Status admit_locked(const Admit& admit);
  Result<FileWriter> create_file(const std::string& subfolder, const std::string& name, uint64_t bytes);
  Status sync_folder(int folder, const std::string& shown);
  Status make_folder(const char* name);
  Status clear_parts(const JobListing& listing);

  OutputTarget place_;   // the folder in the one above
  OutputTarget inside_;  // what is in the folder
  OutputLock lock_;
  bool made_here_ = false;
  bool has_warned_of_sync_ = false;
  bool has_looked_at_events_ = false;
};

}  // namespace pare
