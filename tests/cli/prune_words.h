// tests/cli/prune_words.h: small runs of `pare prune` on the sample model.
#pragma once

#include "tests/cli/words.h"

namespace pare::test {

inline Words data() {
  return {"--data", sample_text(), "--samples", "6", "--context", "64", "--report-tokens", "128"};
}

inline Words prune(const std::string& out, const Words& more) {
  return Words{"prune", sample_model(), "-o", out, "--force", "--no-speed"} + more;
}

}  // namespace pare::test
