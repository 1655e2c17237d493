// engine/models/layers/expert_rows.h: rows of tokens to and from the experts that they chose; internal to
// layers.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#include "engine/core/parallel.h"
#include "engine/tensor/tensor.h"

namespace pare {

constexpr int64_t kRowsAtOnce = 16;

inline void copy_row(const float* from, float* to, int64_t channels) {
  std::memcpy(to, from, size_t(channels) * sizeof(float));
}

// rows[i] = from[places[i] / per_token]
inline void gather_tokens(const Tensor& from, std::span<const int32_t> places, int64_t per_token,
                          Tensor& rows) {
  const int64_t channels = from.size(1);
  parallel_ranges(int64_t(places.size()), kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      copy_row(from.data<float>() + places[size_t(i)] / per_token * from.row_stride(),
               rows.mutable_data<float>() + i * channels, channels);
  });
}

// out[places[i] / per_token] += shares[places[i]] * rows[i]; a token is in `places` at most once.
inline void add_outputs(const Tensor& rows, std::span<const int32_t> places, const float* shares,
                        int64_t per_token, Tensor& out) {
  const int64_t channels = out.size(1);
  parallel_ranges(int64_t(places.size()), kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t place = places[size_t(i)];
      const float share = shares[place];
      const float* from = rows.data<float>() + i * channels;
      float* to = out.mutable_data<float>() + place / per_token * out.row_stride();
      for (int64_t c = 0; c < channels; ++c) to[c] += share * from[c];
    }
  });
}

}  // namespace pare
