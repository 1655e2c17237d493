#include "calibrate/second_moment.h"

#include <algorithm>

#include "engine/core/parallel.h"
#include "engine/tensor/ops.h"
#include "engine/tensor/statistics_backend.h"

namespace pare {
namespace {

// Columns of the result computed at a time: wide enough for the product, narrow enough that little of the
// other triangle is computed.
constexpr int64_t kPanel = 192;

// x [tokens, channels] to [channels, tokens]: the product wants the summed index to be contiguous.
void transpose_into(const Tensor& x, Tensor& out) {
  const int64_t tokens = x.size(0), channels = x.size(1), stride = x.row_stride();
  const float* source = x.data<float>();
  float* target = out.mutable_data<float>();
  constexpr int64_t kTile = 32;
  parallel_ranges(channels, kTile, [&](int64_t begin, int64_t end) {
    for (int64_t first = 0; first < tokens; first += kTile) {
      const int64_t last = std::min(tokens, first + kTile);
      for (int64_t c = begin; c < end; ++c)
        for (int64_t t = first; t < last; ++t) target[c * tokens + t] = source[t * stride + c];
    }
  });
}

}  // namespace

size_t second_moment_workspace_bytes(int64_t tokens, int64_t channels, Device device) {
  if (!device.is_host()) {
    // Of the moment, and of a cross moment as wide.
    const StatisticsBackend& statistics = *backend_for(device).statistics();
    const size_t bytes = std::max(statistics.second_moment_workspace_bytes(tokens, channels),
                                  statistics.cross_moment_workspace_bytes(tokens, channels, channels));
    return Workspace::bytes_for(DType::u8, {int64_t(bytes)});
  }
  return 2 * Workspace::bytes_for(DType::f32, {channels, tokens}) +
         ops::matmul_workspace_bytes(device, channels, channels, tokens);
}

void add_second_moment(const Tensor& x, Tensor& moment, Workspace& workspace) {
  const int64_t tokens = x.size(0), channels = x.size(1);
  if (tokens == 0) return;
  PARE_ASSERT(tokens <= kMomentTokens, "[second_moment] {} tokens at once", tokens);
  const Workspace::Scope scope(workspace);
  if (!x.device().is_host()) {
    StatisticsBackend& statistics = *backend_for(x.device()).statistics();
    const size_t bytes = statistics.second_moment_workspace_bytes(tokens, channels);
    const Tensor scratch = workspace.take(DType::u8, {int64_t(bytes)});
    statistics.second_moment({.x = x.data<float>(),
                              .moment = moment.mutable_data<float>(),
                              .tokens = tokens,
                              .channels = channels,
                              .x_stride = x.row_stride(),
                              .scale = 1.0f,
                              .workspace = scratch.mutable_raw()});
    return;
  }
  Tensor turned = workspace.take(DType::f32, {channels, tokens});
  transpose_into(x, turned);
  for (int64_t begin = 0; begin < channels; begin += kPanel) {
    const int64_t end = std::min(channels, begin + kPanel);
    Tensor out = moment.rows(begin, channels).columns(begin, end);
    ops::matmul(turned.rows(begin, channels), turned.rows(begin, end), Tensor(), /*accumulate=*/true, out,
                workspace);
  }
}

void finish_second_moment(Tensor& moment) {
  const int64_t channels = moment.size(0);
  if (!moment.device().is_host()) {
    backend_for(moment.device())
        .statistics()
        ->mirror_moment({.moment = moment.mutable_data<float>(), .channels = channels});
    return;
  }
  float* values = moment.mutable_data<float>();
  for (int64_t row = 0; row < channels; ++row)
    for (int64_t column = row + 1; column < channels; ++column)
      values[row * channels + column] = values[column * channels + row];
}

void add_cross_moment(const Tensor& a, const Tensor& b, Tensor& cross, Workspace& workspace) {
  const int64_t tokens = a.size(0), channels = a.size(1);
  if (tokens == 0) return;
  const Workspace::Scope scope(workspace);
  if (!a.device().is_host()) {
    StatisticsBackend& statistics = *backend_for(a.device()).statistics();
    const size_t bytes = statistics.cross_moment_workspace_bytes(tokens, channels, b.size(1));
    const Tensor scratch = workspace.take(DType::u8, {int64_t(bytes)});
    statistics.cross_moment({.a = a.data<float>(),
                             .b = b.data<float>(),
                             .cross = cross.mutable_data<float>(),
                             .tokens = tokens,
                             .rows = channels,
                             .columns = b.size(1),
                             .a_stride = a.row_stride(),
                             .b_stride = b.row_stride(),
                             .workspace = scratch.mutable_raw()});
    return;
  }
  Tensor left = workspace.take(DType::f32, {channels, tokens});
  Tensor right = workspace.take(DType::f32, {b.size(1), tokens});
  transpose_into(a, left);
  transpose_into(b, right);
  ops::matmul(left, right, Tensor(), /*accumulate=*/true, cross, workspace);
}

}  // namespace pare
