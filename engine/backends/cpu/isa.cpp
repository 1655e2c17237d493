#include "engine/backends/cpu/isa.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>

namespace pare::cpu {
namespace {

constexpr std::array kLevels{Isa::generic, Isa::avx2, Isa::avx512};

enum Register : uint8_t { kLeaf1Ecx, kLeaf7Ebx, kLeaf7Ecx, kLeaf7Edx, kLeaf71Eax, kRegisters };
enum State : uint8_t { kNone, kYmm, kZmm };  // registers that the operating system must save

struct Feature {
  const char* name;
  Register source;
  uint8_t bit;
  State state;
};

// In the order in which `doctor` prints them. Source: Intel SDM volume 2, CPUID.
constexpr std::array kFeatures{
    Feature{"sse4.2", kLeaf1Ecx, 20, kNone},     Feature{"avx", kLeaf1Ecx, 28, kYmm},
    Feature{"f16c", kLeaf1Ecx, 29, kYmm},        Feature{"fma", kLeaf1Ecx, 12, kYmm},
    Feature{"avx2", kLeaf7Ebx, 5, kYmm},         Feature{"avx_vnni", kLeaf71Eax, 4, kYmm},
    Feature{"avx512f", kLeaf7Ebx, 16, kZmm},     Feature{"avx512dq", kLeaf7Ebx, 17, kZmm},
    Feature{"avx512bw", kLeaf7Ebx, 30, kZmm},    Feature{"avx512vl", kLeaf7Ebx, 31, kZmm},
    Feature{"avx512_vbmi", kLeaf7Ecx, 1, kZmm},  Feature{"avx512_vbmi2", kLeaf7Ecx, 6, kZmm},
    Feature{"avx512_vnni", kLeaf7Ecx, 11, kZmm},
    Feature{"avx512_bf16", kLeaf71Eax, 5, kZmm}, Feature{"avx512_fp16", kLeaf7Edx, 23, kZmm},
};

struct Host {
  std::array<uint32_t, kRegisters> registers{};
  bool saves_ymm = false;
  bool saves_zmm = false;

  bool has(const Feature& feature) const {
    if (feature.state == kYmm && !saves_ymm) return false;
    if (feature.state == kZmm && !saves_zmm) return false;
    return ((registers[feature.source] >> feature.bit) & 1u) != 0;
  }
  bool has(std::string_view name) const {
    return std::ranges::any_of(kFeatures, [&](const Feature& f) { return name == f.name && has(f); });
  }
};

uint64_t extended_control_register() {
  uint32_t low = 0;
  uint32_t high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t(high) << 32) | low;
}

Host read_host() {
  Host host;
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return host;
  host.registers[kLeaf1Ecx] = ecx;
  constexpr uint32_t kOsxsave = 1u << 27;
  if ((ecx & kOsxsave) != 0) {
    const uint64_t enabled = extended_control_register();
    host.saves_ymm = (enabled & 0x06u) == 0x06u;  // XMM and the upper halves of YMM
    host.saves_zmm = (enabled & 0xe6u) == 0xe6u;  // and mask registers and both parts of ZMM
  }
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return host;
  host.registers[kLeaf7Ebx] = ebx;
  host.registers[kLeaf7Ecx] = ecx;
  host.registers[kLeaf7Edx] = edx;
  if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) host.registers[kLeaf71Eax] = eax;
  return host;
}

const Host& this_host() {
  static const Host host = read_host();
  return host;
}

std::atomic<Isa>& limit_slot() {
  static std::atomic<Isa> limit{Isa::avx512};
  return limit;
}

}  // namespace

Isa host_isa() {
  const Host& host = this_host();
  if (!host.has("avx2") || !host.has("fma") || !host.has("f16c")) return Isa::generic;
  if (!host.has("avx512f") || !host.has("avx512bw") || !host.has("avx512vl") || !host.has("avx512dq")) {
    return Isa::avx2;
  }
  return Isa::avx512;
}

Result<Isa> requested_isa() {
  const char* value = std::getenv("PARE_CPU_PROFILE");
  const Isa host = host_isa();
  if (value == nullptr) return host;
  const std::optional<Isa> level = parse_isa(value);
  if (!level) {
    return Error{.exit = Exit::usage,
                 .rule = "CL14",
                 .path = "PARE_CPU_PROFILE",
                 .where = "",
                 .what = "not a CPU profile",
                 .got = std::string("\"") + value + "\"",
                 .limit = "generic, avx2 or avx512",
                 .limit_label = "expected"};
  }
  if (*level > host) {
    return Error{.exit = Exit::usage,
                 .rule = "CL14",
                 .path = "PARE_CPU_PROFILE",
                 .where = "",
                 .what = "this CPU lacks the profile",
                 .got = std::string(isa_name(*level)),
                 .limit = std::string(isa_name(host)),
                 .limit_label = "limit"};
  }
  return *level;
}

Isa best_isa() {
  const Result<Isa> requested = requested_isa();
  return std::min(requested ? *requested : host_isa(), limit_slot().load());
}

void set_isa_limit(Isa limit) {
  limit_slot().store(limit);
}

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    case Isa::generic:
      break;
  }
  return "generic";
}

std::optional<Isa> parse_isa(std::string_view name) {
  for (const Isa isa : kLevels) {
    if (name == isa_name(isa)) return isa;
  }
  return std::nullopt;
}

bool host_has(std::string_view feature) {
  return this_host().has(feature);
}

std::string cpu_features() {
  std::string text;
  for (const Feature& feature : kFeatures) {
    if (!this_host().has(feature)) continue;
    if (!text.empty()) text += ' ';
    text += feature.name;
  }
  return text.empty() ? "none" : text;
}

std::string cpu_model() {
  std::array<uint32_t, 12> words{};
  for (uint32_t i = 0; i < 3; ++i) {
    uint32_t* four = words.data() + 4 * i;
    if (__get_cpuid(0x80000002u + i, &four[0], &four[1], &four[2], &four[3]) == 0) break;
  }
  std::array<char, sizeof words + 1> brand{};
  std::memcpy(brand.data(), words.data(), sizeof words);
  std::string text(brand.data());
  text.erase(text.find_last_not_of(' ') + 1);
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return text;
  const uint32_t family = (eax >> 8 & 15u) + (eax >> 20 & 255u);
  const uint32_t model = (eax >> 4 & 15u) | (eax >> 12 & 0xf0u);
  return text + " (" + std::to_string(family) + "." + std::to_string(model) + "." + std::to_string(eax & 15u) + ")";
}

}  // namespace pare::cpu
