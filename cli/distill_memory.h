// cli/distill_memory.h: how a training run fits below the memory ceiling: how many windows at a time, and
// whether activations are kept.
//
// Without a ceiling in the way the micro-batch follows from shapes alone: the largest divisor of the share of
// one process with at most about 4096 tokens, activations kept. Where that is too much, first activations are
// computed again (the same bytes), then the micro-batch is halved (other sums, so it is recorded and part of
// a resumed job).
#pragma once

#include "cli/command.h"
#include "cli/distill_options.h"
#include "distill/trainer.h"

namespace pare::cli {

struct MemoryPlan {
  int64_t micro_batch = 1;
  bool keeps_blocks = true;
  uint64_t need_bytes = 0;   // of the whole process, or of the GPU's memory
  bool was_lowered = false;  // below what shapes alone would give
};

struct MemoryInput {
  uint64_t limit_bytes = 0;                // of the whole process
  const TrainingModel* student = nullptr;  // loaded
  int64_t teacher_vocabulary = 0;
  uint64_t teacher_bytes = 0;  // that a teacher will take, 0 when none runs
  int64_t context = 0;
  TrainerOptions options;  // micro_batch and keeps_blocks are chosen here
  int ranks = 1;
  std::optional<int64_t> decided;  // the micro-batch of the job that is resumed
};

// Exit 6 (CL05) with the smallest amount that would do.
Result<MemoryPlan> plan_memory(const DistillArguments& arguments, const MemoryInput& input);

// The ceiling of the process as --max-memory says it, else 90 % of what is free beside what it holds now; of
// a GPU that of its memory (--max-vram). Asked once, before anything large is loaded.
Result<uint64_t> process_limit(const CommonOptions& common, Device device);
// What the process holds now, or what it holds of a GPU's memory.
uint64_t held_bytes(Device device);
// Exit 6 (CL05). remedy: "lower --context, or"; what to raise is added.
Error too_much_memory(Device device, uint64_t limit, uint64_t need, const std::string& remedy);

}  // namespace pare::cli
