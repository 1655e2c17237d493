// engine/backends/cuda/math_mode.h: how products are carried out on a GPU. Includes nothing of CUDA.
#pragma once

#include <cstdint>

namespace pare::cuda {

// Sums are float in either mode; activations between operations are float.
enum class MathMode : uint8_t {
  f32,   // float operands, IEEE: fixtures, small models, comparisons
  bf16,  // both operands of a product are rounded to bf16 (f16 with f16 weights): tensor cores
};

}  // namespace pare::cuda
