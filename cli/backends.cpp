#include "cli/backends.h"

#include <algorithm>

#include "cli/tuning.h"
#include "engine/backends/check/check_backend.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/cpu/isa.h"
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/backends/reference/reference_backend.h"
#include "engine/core/memory.h"
#include "engine/core/text.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/cholesky.h"

namespace pare::cli {

Status install_backends(const std::string& cpu_profile) {
  PARE_TRY(cpu::Isa level, cpu::requested_isa());
  if (!cpu_profile.empty()) {
    const auto asked = cpu::parse_isa(cpu_profile);
    if (!asked || *asked > cpu::host_isa()) {
      return Error{.exit = Exit::usage,
                   .rule = "CL06",
                   .path = "--cpu-profile",
                   .where = {},
                   .what = asked ? "this CPU does not have it" : "not a level",
                   .got = quote(cpu_profile),
                   .limit = "generic, avx2 or avx512, up to " + std::string(cpu::isa_name(cpu::host_isa())),
                   .limit_label = "expected"};
    }
    cpu::set_isa_limit(*asked);
    level = std::min(level, *asked);
  }
  load_tuning(level);
  install_backend(make_reference_backend());
  install_backend(make_cpu_backend(level));
  install_backend(make_check_backend(backend_for(Device::cpu()), backend_for(Device::reference()), {}));
  return {};
}

uint64_t peak_device_bytes() {
  uint64_t bytes = 0;
  for (const Backend* backend : installed_backends())
    if (!backend->device().is_host()) bytes += cuda::memory_use(*backend).peak_bytes;
  return bytes;
}

std::string peak_memory_text() {
  const uint64_t on_device = peak_device_bytes();
  return format_bytes(peak_resident_bytes()) +
         (on_device > 0 ? " and " + format_bytes(on_device) + " on the GPU" : std::string());
}

void add_peak_memory(Json& json) {
  json["peak_resident_bytes"] = Json(peak_resident_bytes());
  if (const uint64_t on_device = peak_device_bytes(); on_device > 0)
    json["peak_device_bytes"] = Json(on_device);
}

std::string arithmetic_profile() {
  const std::string tuned = tuning_label();
  std::string text = "cpu " + std::string(cpu::isa_name(cpu::best_isa())) +
                     (tuned.empty() ? "" : ", " + tuned) + "; " + factorization_library();
  for (const Backend* backend : installed_backends())
    if (!backend->device().is_host()) text += "; " + backend->description();
  return text;
}

}  // namespace pare::cli
