#include "engine/backends/cpu/kernels.h"
#include "engine/backends/cpu/training_class.h"
#include "engine/core/parallel.h"

namespace pare::cpu {

// Positions are cut into chunks, and the square of queries and keys into squares of chunks. In round r the
// queries of chunk i meet the keys of chunk i - r: no two squares of a round share rows of dq or of dk and
// dv, and each row is added to in the order of rounds, whatever thread does it.
void CpuTraining::attention_backward(const AttentionBackwardArgs& a) {
  struct Round {
    const AttentionBackwardArgs& args;
    const AttentionBackwardPlan plan;
    const Kernels& kernels;
    int64_t number, chunks;  // chunks: of queries, the last ones
  };
  Round round{a, plan_attention_backward(a), kernels(isa_), 0, 0};
  for (; round.number < round.plan.chunks; ++round.number) {
    round.chunks = round.plan.chunks - (a.causal ? round.number : 0);
    parallel_for(a.sequences * a.kv_heads * round.chunks, [&round](int64_t item) {
      const int64_t all = round.plan.chunks;
      const int64_t query_chunk = all - 1 - item % round.chunks;
      const int64_t key_chunk = (query_chunk - round.number + all) % all;
      round.kernels.attention_backward(round.args, round.plan, item / round.chunks, query_chunk, key_chunk);
    });
  }
}

}  // namespace pare::cpu
