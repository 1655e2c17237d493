#include "engine/core/signals.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>

#include "engine/core/error.h"
#include "engine/core/stderr_line.h"

namespace pare {
namespace {

// Everything that a handler reads is an atomic or is written before the atomic that publishes it.
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<const void*>::is_always_lock_free);

std::atomic<int> stop_signals{0};
std::atomic<int> jobs{0};

// --- temporaries ---------------------------------------------------------------------------------------

constexpr size_t kTemporaries = 16;

struct Temporary {
  enum State { free, changing, used };
  std::atomic<int> state{free};
  bool is_directory = false;
  std::array<char, 4097> path{};
};
std::array<Temporary, kTemporaries> temporaries;

struct LinuxDirent {
  uint64_t inode;
  int64_t offset;
  unsigned short length;
  unsigned char type;
  char name[1];
};

// Removes a flat folder with system calls only: opendir would allocate.
void remove_folder(const char* path) {
  const int folder = ::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (folder < 0) return;
  alignas(8) std::array<char, 4096> entries;
  long bytes = 0;
  while ((bytes = ::syscall(SYS_getdents64, folder, entries.data(), entries.size())) > 0) {
    for (long at = 0; at < bytes;) {
      const auto* entry = reinterpret_cast<const LinuxDirent*>(entries.data() + at);
      ::unlinkat(folder, entry->name, 0);  // fails on "." and ".."
      at += entry->length;
    }
  }
  ::close(folder);
  ::rmdir(path);
}

void remove_temporaries() {
  for (Temporary& temporary : temporaries) {
    if (temporary.state != Temporary::used) continue;
    if (temporary.is_directory) {
      remove_folder(temporary.path.data());
    } else {
      ::unlink(temporary.path.data());
    }
  }
}

// --- stop signals --------------------------------------------------------------------------------------

void on_stop_signal(int number) {
  const int before = errno;
  const int count = stop_signals.fetch_add(1);
  if (count == 0 && jobs == 0) {
    remove_temporaries();
    ::_exit(130);
  }
  // A closed terminal may send SIGHUP more than once; only a person asking again means "at once".
  if (count > 0 && number != SIGHUP) ::_exit(130);
  errno = before;
}

// --- mappings ------------------------------------------------------------------------------------------

// A node is never freed, only reused, so a handler may walk the list at any time.
struct Mapping {
  std::atomic<const void*> data{nullptr};
  std::atomic<size_t> size{0};
  std::string line;  // what the handler prints
  Mapping* next = nullptr;
};
std::atomic<Mapping*> mappings{nullptr};
std::mutex mappings_mutex;  // writers only

void on_bus_error(int number, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Mapping* mapping = mappings; mapping != nullptr; mapping = mapping->next) {
    const auto begin = reinterpret_cast<uintptr_t>(mapping->data.load());
    if (begin == 0 || address < begin || address - begin >= mapping->size) continue;
    const ssize_t ignored = ::write(STDERR_FILENO, mapping->line.data(), mapping->line.size());
    (void)ignored;
    ::_exit(5);
  }
  // Not ours: the faulting instruction runs again and ends the process as it would have.
  ::signal(number, SIG_DFL);
}

std::string line_of_mapping(const char* path) {
  const Error error{Exit::io, "PK32", path, "", "input changed while in use", "SIGBUS", ""};
  return (log_is_json() ? format_error_json(error) : "pare: error: " + format_error(error)) + "\n";
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  sigemptyset(&action.sa_mask);
  action.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &action, nullptr);
  ::sigaction(SIGXFSZ, &action, nullptr);

  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  struct sigaction hangup {};
  const bool nohup = ::sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler == SIG_IGN;
  if (!nohup) ::sigaction(SIGHUP, &action, nullptr);

  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

bool interrupted() {
  return stop_signals > 0;
}

JobSignalScope::JobSignalScope() {
  ++jobs;
}
JobSignalScope::~JobSignalScope() {
  --jobs;
}

void register_mapping(const void* data, size_t size, const char* path) {
  const std::lock_guard lock(mappings_mutex);
  Mapping* mapping = mappings;
  while (mapping != nullptr && mapping->data != nullptr) mapping = mapping->next;
  const bool fresh = mapping == nullptr;
  if (fresh) mapping = new Mapping;
  mapping->line = line_of_mapping(path);
  mapping->size = size;
  mapping->data = data;
  if (fresh) {
    mapping->next = mappings;
    mappings = mapping;
  }
}

void unregister_mapping(const void* data) {
  const std::lock_guard lock(mappings_mutex);
  for (Mapping* mapping = mappings; mapping != nullptr; mapping = mapping->next) {
    if (mapping->data != data) continue;
    mapping->data = nullptr;
    return;
  }
}

void register_temporary(const char* path, bool is_directory) {
  const size_t length = std::strlen(path);
  for (Temporary& temporary : temporaries) {
    if (length >= temporary.path.size()) return;
    int expected = Temporary::free;
    if (!temporary.state.compare_exchange_strong(expected, Temporary::changing)) continue;
    std::memcpy(temporary.path.data(), path, length + 1);
    temporary.is_directory = is_directory;
    temporary.state = Temporary::used;
    return;
  }
}

void unregister_temporary(const char* path) {
  for (Temporary& temporary : temporaries) {
    if (temporary.state == Temporary::used && std::strcmp(temporary.path.data(), path) == 0) {
      temporary.state = Temporary::free;
      return;
    }
  }
}

}  // namespace pare
