// engine/backends/cpu/multiply_add_peak.h: as many f32 multiply-adds as one thread can do, on registers
// alone: the speed that no kernel exceeds, for benchmarks and for the share that a training run reports.
#pragma once

#include <cstdint>

namespace pare::cpu {

// Runs twelve independent chains of the widest vectors of best_isa(), `steps` links each.
void run_multiply_adds(int64_t steps);
// Operations of that call, a multiply-add counted as two.
double multiply_add_operations(int64_t steps);

}  // namespace pare::cpu
