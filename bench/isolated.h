// bench/isolated.h: cases in processes of their own, so that one that ends its process costs none but itself.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace pare::bench {

struct IsolatedRun {
  int64_t count = 0;                                      // of cases
  unsigned case_seconds = 0;                              // a case that lasts longer is ended; 0: none is
  std::function<bool(int64_t)> run;                       // in the child; false: the case was no good
  std::function<void()> finished{};                       // in the child, behind its last case
  std::function<void(int64_t, const std::string&)> lost;  // in the parent: a case that ended its process
};

// A child runs one case behind the other; where it ends before it should, another one goes on with the next
// case. Nothing may have opened a GPU before. Returns the exit code: 0 when every case was good, else 1.
int run_isolated(const IsolatedRun& cases);

}  // namespace pare::bench
