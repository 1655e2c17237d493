// bench/gpu_limits.cpp: what the card can do at all, each limit once by itself, so that a run has every one
// of them even where the cases that lean on it gave up.
#include <fmt/format.h>

#include "bench/cases.h"
#include "bench/gpu_support.h"

namespace pare::bench {
namespace {

Case limit_case(cuda::GpuProbe probe) {
  auto probes = std::make_shared<cuda::GpuProbes>(gpu());
  require(probes->run(probe));  // buffers and recordings are there
  Case c{.kernel = std::string(cuda::gpu_probe_name(probe))};
  c.own_limit =
      Limit{.name = c.kernel,
            .work = cuda::GpuProbes::work(probe),
            .run = [probes, probe] { require(probes->run(probe)); },
            // launches are counted like operations
            .counts_operations = probe == cuda::GpuProbe::gemm_bf16 || probe == cuda::GpuProbe::boundary};
  c.bytes = c.operations = c.own_limit->work;
  c.verify = [] { return 0.0; };
  c.run = c.own_limit->run;
  return c;
}

}  // namespace

std::vector<NamedCase> gpu_limit_cases() {
  using enum cuda::GpuProbe;
  std::vector<NamedCase> cases;
  for (const cuda::GpuProbe probe : {copy, read, gemm_bf16, boundary, upload, download})
    cases.push_back(
        {fmt::format("limit/{}", cuda::gpu_probe_name(probe)), [probe] { return limit_case(probe); }, true});
  return cases;
}

}  // namespace pare::bench
