// engine/core/signals.h: what Ctrl-C, a closed pipe and a truncated mapping do to us.
#pragma once

#include <cstddef>

namespace pare {

// SIGPIPE and SIGXFSZ ignored (they come back as errors); SIGBUS inside a registered mapping prints one line
// and exits 5; the first SIGINT, SIGTERM or SIGHUP sets interrupted() (and, when nothing is registered as a
// job, removes temporaries and exits 130), a second one exits 130 at once. Called once by main.
void install_signal_handlers();

// True after the first stop signal; long jobs poll it between units.
bool interrupted();

// While alive, the first stop signal only sets interrupted().
class JobSignalScope {
 public:
  JobSignalScope();
  ~JobSignalScope();
};

// Mappings whose SIGBUS is turned into exit 5. `path` must stay alive as long as the registration.
void register_mapping(const void* data, size_t size, const char* path);
void unregister_mapping(const void* data);

// Paths removed from the handler when a command without a job is interrupted. At most 16 at a time.
void register_temporary(const char* path, bool is_directory);
void unregister_temporary(const char* path);

}  // namespace pare
