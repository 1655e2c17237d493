// calibrate/second_moment.h: H += X^T X, the statistic of all second-order methods.
#pragma once

#include "engine/core/result.h"
#include "engine/tensor/tensor.h"
#include "engine/tensor/workspace.h"

namespace pare {

// All tensors of a call lie on one device; on a GPU its StatisticsBackend makes the sums.

// moment f32 [channels, channels] += sum over tokens of x x^T, x f32 [tokens, channels] with at most
// kMomentTokens tokens. Exactly symmetric: one triangle is computed and mirrored by finish_second_moment().
// Same bytes for any thread count.
inline constexpr int64_t kMomentTokens = 4096;
void add_second_moment(const Tensor& x, Tensor& moment, Workspace& workspace);
size_t second_moment_workspace_bytes(int64_t tokens, int64_t channels, Device device);

// Copies the computed (lower) triangle to the other one.
void finish_second_moment(Tensor& moment);

// cross f32 [channels of a, channels of b] += sum over tokens of a b^T, for two streams of the same tokens.
void add_cross_moment(const Tensor& a, const Tensor& b, Tensor& cross, Workspace& workspace);

}  // namespace pare
