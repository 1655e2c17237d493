#include "cli/distill_memory.h"

#include <fmt/core.h>

#include <algorithm>
#include <vector>

#include "engine/backends/cuda/cuda_backend.h"
#include "engine/core/memory.h"
#include "engine/core/text.h"
#include "engine/tensor/backend.h"

namespace pare::cli {
namespace {

constexpr int64_t kTokensAtOnce = 4096;

// Divisors of `share` with at most kTokensAtOnce tokens, falling; at least 1.
std::vector<int64_t> micro_batches(int64_t share, int64_t context) {
  std::vector<int64_t> sizes;
  for (int64_t size = share; size >= 1; --size)
    if (share % size == 0 && (size * context <= kTokensAtOnce || size == 1)) sizes.push_back(size);
  return sizes;
}

}  // namespace

Result<uint64_t> process_limit(const CommonOptions& common, Device device) {
  if (!device.is_host()) return cuda::memory_use(backend_for(device)).ceiling_bytes;
  PARE_TRY(const uint64_t limit, memory_limit(common));
  return common.max_memory.empty() ? limit + resident_bytes() : limit;
}

uint64_t held_bytes(Device device) {
  return device.is_host() ? resident_bytes() : cuda::memory_use(backend_for(device)).held_bytes;
}

Error too_much_memory(Device device, uint64_t limit, uint64_t need, const std::string& remedy) {
  return Error{.exit = Exit::resource,
               .rule = "CL05",
               .path = device.is_host() ? "memory" : "memory of " + device.name(),
               .what = fmt::format("not enough for this job; {} raise {}", remedy,
                                   device.is_host() ? "--max-memory" : "--max-vram"),
               .got = format_bytes(limit),
               .limit = format_bytes(need),
               .limit_label = "need"};
}

Result<MemoryPlan> plan_memory(const DistillArguments& arguments, const MemoryInput& input) {
  const Device device = input.student->device();
  const uint64_t held = held_bytes(device) + input.teacher_bytes;
  const auto need = [&](int64_t micro_batch, bool keeps_blocks) {
    TrainerOptions options = input.options;
    options.micro_batch = micro_batch;
    options.keeps_blocks = keeps_blocks;
    return held + Trainer::planned_bytes(*input.student, input.teacher_vocabulary, input.context, options,
                                         input.ranks);
  };
  std::vector<int64_t> sizes =
      micro_batches(std::max<int64_t>(1, arguments.batch / input.ranks), input.context);
  if (arguments.micro_batch) sizes = {*arguments.micro_batch};
  if (input.decided) sizes = {*input.decided};
  std::vector<bool> ways = {true, false};
  if (arguments.recompute != "auto") ways = {arguments.recompute == "off"};
  uint64_t least = 0;
  for (const int64_t size : sizes) {
    for (const bool keeps : ways) {
      const uint64_t bytes = need(size, keeps);
      if (least == 0 || bytes < least) least = bytes;
      if (bytes > input.limit_bytes) continue;
      return MemoryPlan{.micro_batch = size,
                        .keeps_blocks = keeps,
                        .need_bytes = bytes,
                        .was_lowered = size != sizes.front() || keeps != ways.front()};
    }
  }
  std::string remedy = "lower --context";
  if (arguments.micro_batch && *arguments.micro_batch > 1) remedy += " or --micro-batch";
  if (arguments.recompute == "off") remedy += ", say --recompute on";
  if (input.teacher_bytes > 0) remedy += ", use --teacher-blocks one-by-one or --cache-teacher";
  return too_much_memory(device, input.limit_bytes, least, remedy + ", or");
}

}  // namespace pare::cli
