#include "engine/core/memory.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "engine/core/text.h"

namespace pare {
namespace {

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

std::atomic<uint64_t> peak_private{0};

// A small kernel file; empty when it cannot be read. These are not inputs, so they stay outside InputFile.
std::string read_kernel_file(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return {};
  std::string text(16384, '\0');
  const ssize_t bytes = ::read(descriptor, text.data(), text.size());
  ::close(descriptor);
  text.resize(bytes > 0 ? static_cast<size_t>(bytes) : 0);
  return text;
}

std::string_view first_word(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(" \t\n"), text.size());
  text.remove_prefix(begin);
  return text.substr(0, std::min(text.find_first_of(" \t\n"), text.size()));
}

// The number after `key` at the start of a line.
std::optional<uint64_t> field(std::string_view text, std::string_view key) {
  size_t at = 0;
  while ((at = text.find(key, at)) != std::string_view::npos) {
    if (at == 0 || text[at - 1] == '\n') return parse_uint(first_word(text.substr(at + key.size())));
    at += key.size();
  }
  return std::nullopt;
}

std::optional<uint64_t> kernel_number(const std::string& path) {
  return parse_uint(first_word(read_kernel_file(path)));
}

uint64_t status_bytes(std::string_view key) {
  return field(read_kernel_file("/proc/self/status"), key).value_or(0) * 1024;
}

struct Cgroup {
  bool version2;
  std::string root;  // mount point of the controller
  std::string path;  // below it, starting with a slash
};

// Where this process stands in the hierarchy of one controller; version 2 has a single one for all.
std::optional<Cgroup> find_cgroup(std::string_view controller) {
  const std::string text = read_kernel_file("/proc/self/cgroup");
  std::optional<Cgroup> unified;
  for (std::string_view rest = text; !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    const size_t first = line.find(':');
    const size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string list = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const std::string path(line.substr(second + 1));
    if (list == ",,") unified = Cgroup{true, "/sys/fs/cgroup", path};
    if (list.find(fmt::format(",{},", controller)) != std::string::npos) {
      return Cgroup{false, "/sys/fs/cgroup/" + std::string(controller), path};
    }
  }
  return unified;
}

// Calls visit(folder) for the group and each of its parents: a limit anywhere above holds for us too.
template <typename Visit>
void for_each_level(const Cgroup& group, Visit visit) {
  std::string path = group.path == "/" ? "" : group.path;
  for (;;) {
    visit(group.root + path);
    if (path.empty()) return;
    path.resize(std::min(path.rfind('/'), path.size() - 1));
  }
}

uint64_t cgroup_free_bytes() {
  const std::optional<Cgroup> group = find_cgroup("memory");
  uint64_t smallest = kUnlimited;
  if (!group) return smallest;
  for_each_level(*group, [&](const std::string& folder) {
    const auto limit = kernel_number(folder + (group->version2 ? "/memory.max" : "/memory.limit_in_bytes"));
    const auto used =
        kernel_number(folder + (group->version2 ? "/memory.current" : "/memory.usage_in_bytes"));
    if (!limit || !used) return;
    // Cached file pages count as used but are given back under pressure.
    const std::string stat = read_kernel_file(folder + "/memory.stat");
    const uint64_t cached =
        field(stat, group->version2 ? "inactive_file" : "total_inactive_file").value_or(0);
    const uint64_t held = *used > cached ? *used - cached : 0;
    smallest = std::min(smallest, *limit > held ? *limit - held : 0);
  });
  return smallest;
}

uint64_t address_space_free_bytes() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnlimited;
  const uint64_t used = status_bytes("VmSize:");
  return limit.rlim_cur > used ? limit.rlim_cur - used : 0;
}

// CPUs that the quota of the group pays for, rounded up.
uint64_t cgroup_cpus() {
  const std::optional<Cgroup> group = find_cgroup("cpu");
  uint64_t smallest = kUnlimited;
  if (!group) return smallest;
  for_each_level(*group, [&](const std::string& folder) {
    std::optional<uint64_t> quota, period;
    if (group->version2) {
      const std::string text = read_kernel_file(folder + "/cpu.max");  // "max 100000" or "150000 100000"
      const std::string_view word = first_word(text);
      quota = parse_uint(word);
      if (quota)
        period = parse_uint(first_word(std::string_view(text).substr(text.find(word) + word.size())));
    } else {
      quota = kernel_number(folder + "/cpu.cfs_quota_us");  // -1 without a quota
      period = kernel_number(folder + "/cpu.cfs_period_us");
    }
    if (quota && period && *period > 0) {
      smallest =
          std::min(smallest, std::max<uint64_t>(1, *quota / *period + (*quota % *period != 0 ? 1 : 0)));
    }
  });
  return smallest;
}

uint64_t affinity_cpus() {
  // A fixed mask fails with EINVAL on machines with more CPUs than it has bits; then grow.
  for (size_t cpus = 1024; cpus <= (1u << 20); cpus *= 4) {
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (set == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(cpus);
    const int result = ::sched_getaffinity(0, bytes, set);
    const int count = result == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return static_cast<uint64_t>(count);
  }
  const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? static_cast<uint64_t>(online) : 1;
}

}  // namespace

uint64_t peak_resident_bytes() {
  return status_bytes("VmHWM:");
}
uint64_t resident_bytes() {
  return status_bytes("VmRSS:");
}

void sample_private_bytes() {
  // statm: total, resident, shared (file-backed), ... in pages; the difference is anonymous memory.
  const std::string text = read_kernel_file("/proc/self/statm");
  std::array<uint64_t, 3> pages{};
  std::string_view rest = text;
  for (uint64_t& value : pages) {
    const std::string_view word = first_word(rest);
    value = parse_uint(word).value_or(0);
    rest.remove_prefix(static_cast<size_t>(word.data() + word.size() - rest.data()));
  }
  const long page_bytes = ::sysconf(_SC_PAGESIZE);
  const uint64_t bytes = (pages[1] > pages[2] ? pages[1] - pages[2] : 0) * static_cast<uint64_t>(page_bytes);
  uint64_t peak = peak_private.load();
  while (bytes > peak && !peak_private.compare_exchange_weak(peak, bytes)) {
  }
}

uint64_t peak_private_bytes() {
  sample_private_bytes();
  return peak_private;
}

uint64_t available_bytes() {
  const uint64_t machine =
      field(read_kernel_file("/proc/meminfo"), "MemAvailable:").value_or(kUnlimited / 1024) * 1024;
  return std::min({machine, cgroup_free_bytes(), address_space_free_bytes()});
}

int available_cpus() {
  return static_cast<int>(std::min(affinity_cpus(), cgroup_cpus()));
}

}  // namespace pare
