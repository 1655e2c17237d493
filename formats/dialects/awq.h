// formats/dialects/awq.h: AWQ checkpoints in GEMM order (AutoAWQ); internal to formats. Layout:
// docs/interop.md.
#pragma once

#include "formats/dialects/dialect.h"

namespace pare {

Result<Translation> read_awq(const DialectInput& input);
Result<DialectPlan> plan_awq(const DialectTarget& target);

}  // namespace pare
