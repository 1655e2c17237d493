#include "calibrate/vector_level.h"

namespace pare {

VectorLevel host_vector_level() {
#if defined(__x86_64__)
  static const VectorLevel level = [] {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return VectorLevel::avx512;
    return __builtin_cpu_supports("avx2") ? VectorLevel::avx2 : VectorLevel::generic;
  }();
  return level;
#else
  return VectorLevel::generic;
#endif
}

}  // namespace pare
