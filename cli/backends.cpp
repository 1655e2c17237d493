#include "cli/backends.h"

#include <algorithm>

#include "cli/tuning.h"
#include "engine/backends/check/check_backend.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/cpu/isa.h"
#include "engine/backends/reference/reference_backend.h"
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

std::string arithmetic_profile() {
  const std::string tuned = tuning_label();
  std::string text = "cpu " + std::string(cpu::isa_name(cpu::best_isa())) +
                     (tuned.empty() ? "" : ", " + tuned) + "; " + factorization_library();
  for (const Backend* backend : installed_backends())
    if (!backend->device().is_host()) text += "; " + backend->description();
  return text;
}

}  // namespace pare::cli
