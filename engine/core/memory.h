// engine/core/memory.h: how much memory there is and how much we took.
#pragma once

#include <cstdint>

namespace pare {

uint64_t peak_resident_bytes();  // high-water mark of this process (VmHWM)
uint64_t resident_bytes();       // now (VmRSS)
uint64_t peak_private_bytes();   // high-water of anonymous memory as sampled by sample_private_bytes()
void sample_private_bytes();     // call at points where memory peaks; cheap (one small /proc read)
uint64_t available_bytes();      // MemAvailable, lowered by the cgroup limit
int available_cpus();            // CPUs this process may use (affinity and cgroup quota)

}  // namespace pare
