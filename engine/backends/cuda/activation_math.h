// engine/backends/cuda/activation_math.h: the activations and their slopes in float, for kernels.
//
// silu, quick_gelu and gelu_tanh are x times a logistic function: gelu_tanh = x logistic(2 y), y the argument
// of its tanh. So nothing cancels, and exp() only ever sees what cannot overflow.
#pragma once

#include <cuda_runtime.h>

#include "engine/tensor/backend.h"

namespace pare::cuda {

struct Logistic {
  float at, rest;  // 1 / (1 + exp(-z)), and 1 minus it without cancellation
};

__device__ __forceinline__ Logistic logistic(float z) {
  const float e = expf(-fabsf(z));
  const float larger = 1.0f / (1.0f + e), smaller = e * larger;
  return z < 0.0f ? Logistic{smaller, larger} : Logistic{larger, smaller};
}

constexpr float kQuickGelu = 1.702f;
constexpr float kGeluCube = 0.044715f;
constexpr float kTwoRootTwoOverPi = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kRootHalf = 0.70710678118654752f;
constexpr float kGaussianPeak = 0.39894228040143268f;  // 1 / sqrt(2 pi)

__device__ __forceinline__ float gelu_tanh_argument(float x) {
  return kTwoRootTwoOverPi * fmaf(kGeluCube * x * x, x, x);
}

// f(x). A NaN stays one.
template <Activation Kind>
__device__ __forceinline__ float evaluate(float x) {
  if constexpr (Kind == Activation::relu) return x < 0.0f ? 0.0f : x;
  if constexpr (Kind == Activation::silu) return x * logistic(x).at;
  if constexpr (Kind == Activation::gelu) return 0.5f * x * erfcf(-x * kRootHalf);  // 1 + erf(y) = erfc(-y)
  if constexpr (Kind == Activation::gelu_tanh) return x * logistic(gelu_tanh_argument(x)).at;
  if constexpr (Kind == Activation::quick_gelu) return x * logistic(kQuickGelu * x).at;
  return x;
}

struct Slope {
  float value, slope;  // f(x), f'(x)
};

// Of x logistic(z), z' = dz / dx. The factors that vanish come first: x and z' may be huge.
__device__ __forceinline__ Slope logistic_slope(float x, float z, float dz) {
  const Logistic s = logistic(z);
  const float density = s.at * s.rest;
  const float rise = density == 0.0f ? 0.0f : density * x * dz;
  return {x * s.at, s.at + rise};
}

template <Activation Kind>
__device__ __forceinline__ Slope slope_at(float x) {
  if constexpr (Kind == Activation::relu) return {x < 0.0f ? 0.0f : x, x <= 0.0f ? 0.0f : 1.0f};
  if constexpr (Kind == Activation::silu) return logistic_slope(x, x, 1.0f);
  if constexpr (Kind == Activation::quick_gelu) return logistic_slope(x, kQuickGelu * x, kQuickGelu);
  if constexpr (Kind == Activation::gelu_tanh) {
    const float dz = kTwoRootTwoOverPi * fmaf(3.0f * kGeluCube * x, x, 1.0f);
    return logistic_slope(x, gelu_tanh_argument(x), dz);
  }
  if constexpr (Kind == Activation::gelu) {
    const float distribution = 0.5f * erfcf(-x * kRootHalf);
    return {x * distribution, fmaf(x, kGaussianPeak * expf(-0.5f * x * x), distribution)};
  }
  return {x, 1.0f};
}

// Calls run<Kind>(); the branch is the same for all threads.
template <typename Run>
__device__ __forceinline__ void with_activation(Activation kind, Run run) {
  switch (kind) {
    case Activation::identity:
      return run.template operator()<Activation::identity>();
    case Activation::relu:
      return run.template operator()<Activation::relu>();
    case Activation::silu:
      return run.template operator()<Activation::silu>();
    case Activation::gelu:
      return run.template operator()<Activation::gelu>();
    case Activation::gelu_tanh:
      return run.template operator()<Activation::gelu_tanh>();
    case Activation::quick_gelu:
      return run.template operator()<Activation::quick_gelu>();
  }
}

}  // namespace pare::cuda
