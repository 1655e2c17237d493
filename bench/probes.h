// bench/probes.h: what this machine can do at all, measured in the same run as what it is compared with.
//
// Source of the rules: performance notes of the project, sections 1.2 to 1.4; docs/benchmarks.md.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace pare::bench {

enum class Probe : uint8_t {
  cpu_read,     // bytes/s: streaming read of a buffer of 8 last-level caches, all threads of the run
  cpu_copy,     // bytes/s: memcpy between two such buffers (bytes read plus bytes written)
  cpu_fma_f32,  // operations/s: 12 independent multiply-add chains of the widest vector, all threads of the
                // run
};

std::string_view probe_name(Probe probe, int threads);  // "cpu.read1", "cpu.read2", "cpu.copy", "cpu.fma_f32"
int64_t last_level_cache_bytes();
// A file of /proc or /sys, whose size is not known before it is read; empty when it cannot be.
std::string kernel_text(const char* path);

// Buffers of the probes, touched once.
class Probes {
 public:
  Probes();
  ~Probes();
  // Work of one call, in bytes or operations.
  double work(Probe probe) const;
  // One call with the threads of the pool; takes some milliseconds.
  void run(Probe probe);

 private:
  struct Buffers;
  std::unique_ptr<Buffers> buffers_;
};

}  // namespace pare::bench
