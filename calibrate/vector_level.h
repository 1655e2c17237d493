// calibrate/vector_level.h: the vectors of this machine, for loops that give the same bytes with all of them.
#pragma once

#include <cstdint>

namespace pare {

enum class VectorLevel : uint8_t { generic, avx2, avx512 };

// The widest that the machine has.
VectorLevel host_vector_level();

}  // namespace pare
