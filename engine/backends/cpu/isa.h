// engine/backends/cpu/isa.h: which instruction set the vector kernels use.
//
// Chosen once per process: what CPU and operating system offer, lowered by the environment variable
// PARE_CPU_PROFILE and by --cpu-profile. The level is part of the arithmetic profile: results of one level
// are the same bytes everywhere, results of two levels agree within the bounds of docs/numerics.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/core/result.h"

namespace pare::cpu {

enum class Isa : uint8_t {
  generic,  // any x86-64
  avx2,     // AVX2, FMA, F16C
  avx512,   // AVX-512 F, BW, VL, DQ, and everything of avx2
};

Isa host_isa();  // the highest level that CPU and operating system support

// host_isa() lowered by PARE_CPU_PROFILE and by set_isa_limit. A malformed variable lowers nothing here;
// whoever starts the process asks requested_isa() first.
Isa best_isa();

// The level that PARE_CPU_PROFILE names, host_isa() when it is not set. Error: exit 2, rule CL14, when the
// value is not a level or the host lacks it.
Result<Isa> requested_isa();

// For --cpu-profile: best_isa() never exceeds `limit` from now on. Call before a backend is made.
void set_isa_limit(Isa limit);

std::string_view isa_name(Isa isa);  // "generic", "avx2", "avx512"
std::optional<Isa> parse_isa(std::string_view name);

// What the host has, for `pare doctor`: "avx2 fma f16c avx512f ... avx512_vnni avx512_bf16"; "none" without
// any.
std::string cpu_features();
bool host_has(std::string_view feature);  // one of those words; false for others
// Brand, family, model and stepping as the processor tells them: "AMD EPYC 9B45 (26.2.1)".
std::string cpu_model();

}  // namespace pare::cpu
