// formats/dialects/compressed_tensors.h: the library of that name (vLLM, llm-compressor); internal to
// formats. Layout: docs/interop.md.
#pragma once

#include "formats/dialects/dialect.h"

namespace pare {

Result<Translation> read_compressed_tensors(const DialectInput& input);
Result<DialectPlan> plan_compressed_tensors(const DialectTarget& target);

}  // namespace pare
