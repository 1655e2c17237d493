// engine/backends/cuda/attention_decode.h: attention of a decode step whose lengths stand in device memory,
// so that a captured graph serves every step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/tensor/backend.h"

namespace pare::cuda {

class Context;
Context& context_of(Backend& backend);  // of a backend that make_cuda_backend() made

// Sequence s holds n = lengths[s] + length_offset keys, those of the new tokens included, and its query i
// stands at position n - query_tokens + i. What backend.h says of AttentionArgs holds, except
//   key_tokens    the most keys that any sequence may have (the capacity of the cache, or of a bucket of
//   contexts):
//                 the grid is made for it, and more than that are never read;
//   query_offset  not used.
// A sequence with n <= 0 (a free place of the batch) gets rows of 0. Same n and same key_tokens: same bytes.
struct AttentionDecodeArgs {
  AttentionArgs attention;
  const int32_t* lengths;     // [sequences], device memory: lengths, or positions
  int32_t length_offset = 0;  // 1 where `lengths` are positions of the new token
  // May start before the kernel ahead of it in the stream ends (programmatic dependent launch): it waits for
  // that kernel itself before it reads anything.
  bool is_dependent = false;
};

// One or two launches (the second merges the parts of long contexts).
void attention_decode(Context& context, const AttentionDecodeArgs& args);

// What the call takes of context.scratch(): ask for it before a capture starts, since scratch cannot grow
// within.
size_t attention_decode_scratch_bytes(const Context& context, const AttentionArgs& args);

}  // namespace pare::cuda
