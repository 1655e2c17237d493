// engine/backends/cuda/int8_rows.cuh: one row of floats to codes (integer_product.h), wherever the row comes
// from.
#pragma once

#include <cfloat>

#include "engine/backends/cuda/int8_kernels.h"
#include "engine/backends/cuda/quads.h"

namespace pare::cuda {

struct RoundProblem {
  Int8Rows to;
  Int8Segments segments;
  bool is_static, is_symmetric;
  int bottom, top;  // codes
  float scale;      // static
  int zero_point;
};

// activation_grid() of integer_product.h.
__device__ __forceinline__ RoundedRow grid_of(const RoundProblem& p, float low, float high) {
  RoundedRow row;
  row.scale = p.scale, row.zero_point = p.zero_point;
  if (p.is_static) return row;
  const float largest = fmaxf(-low, high);
  row.scale = 1.0f, row.zero_point = 0;
  if (largest == 0.0f) return row;
  if (p.is_symmetric) {
    row.scale = fmaxf(largest / float(p.top), FLT_MIN);
    return row;
  }
  const int steps = p.top - p.bottom;
  row.scale = fmaxf(float((double(high) - double(low)) / double(steps)), FLT_MIN);
  const double zero = rint(-double(low) / double(row.scale));
  row.zero_point = int(fmin(fmax(zero, 0.0), double(steps))) + p.bottom;
  return row;
}

// Where column c stands and to which segment it belongs.
struct Column {
  int64_t place, segment;
};
__device__ __forceinline__ Column column_of(const Int8Segments& g, int64_t c) {
  if (g.count == 1) return {c, 0};
  const int64_t group = c / g.group_width, within = c - group * g.group_width;
  return {group * g.group_steps * kInt8Step + within,
          group * g.per_group + (g.per_group > 1 ? within / g.widest : 0)};
}

// Codes of a row whose elements `row` holds; the threads of Lanes lanes come together. sums: of the row's
// segments, in shared memory, cleared; null: one segment.
template <int Lanes, typename RowOf>
__device__ __forceinline__ void round_row(const RoundProblem& p, RowOf& row, int64_t token, bool is_real,
                                          int32_t* sums) {
  const int64_t columns = is_real ? p.segments.in : 0;
  float low = 0.0f, high = 0.0f;
  bool is_finite = true;
  row.each([&](auto c, const Quad& q) {
    const int inside = inside_of(int64_t(c), columns);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      if (j >= inside) continue;
      is_finite = is_finite && fabsf(q.v[j]) <= FLT_MAX;
      low = fminf(low, q.v[j]);
      high = fmaxf(high, q.v[j]);
    }
  });
  low = -row_max<Lanes>(-low, 0.0f);
  high = row_max<Lanes>(high, 0.0f);
  is_finite = row_max<Lanes>(is_finite ? 0.0f : 1.0f, 0.0f) == 0.0f;
  RoundedRow grid;
  grid.scale = __int_as_float(0x7fffffff), grid.zero_point = 0;  // NaN
  if (is_finite) grid = grid_of(p, low, high);
  const float bottom = float(p.bottom - grid.zero_point), top = float(p.top - grid.zero_point);
  int8_t* codes = p.to.codes + token * p.segments.padded();
  int32_t total = 0;
  row.each([&](auto c, const Quad& q) {
    const int inside = inside_of(int64_t(c), columns);
    if (inside == 0) return;
    int centred[kQuad];  // code - zero point
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      centred[j] = 0;
      if (j < inside && is_finite) centred[j] = int(rintf(fminf(fmaxf(q.v[j] / grid.scale, bottom), top)));
    }
    const Column first = column_of(p.segments, c), last = column_of(p.segments, c + inside - 1);
    const bool together = first.segment == last.segment;
    const int zero = is_finite ? grid.zero_point : 0;
    if (together && inside == kQuad && first.place % kQuad == 0) {
      const char4 four = make_char4(
          static_cast<signed char>(centred[0] + zero), static_cast<signed char>(centred[1] + zero),
          static_cast<signed char>(centred[2] + zero), static_cast<signed char>(centred[3] + zero));
      *reinterpret_cast<char4*>(codes + first.place) = four;
    } else {
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        if (j < inside) codes[column_of(p.segments, c + j).place] = int8_t(centred[j] + zero);
      }
    }
    if (sums == nullptr) {
      total += (centred[0] + centred[1]) + (centred[2] + centred[3]);
    } else if (together) {
      atomicAdd(sums + first.segment, (centred[0] + centred[1]) + (centred[2] + centred[3]));
    } else {
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        if (j < inside) atomicAdd(sums + column_of(p.segments, c + j).segment, centred[j]);
      }
    }
  });
  const int lane = int(threadIdx.x) % Lanes;
  if (is_real && p.segments.padded() != p.segments.in) {
    // The filling behind each group: zeros.
    const int64_t width = p.segments.group_steps * kInt8Step;
    for (int64_t place = lane; place < p.segments.padded(); place += Lanes) {
      const int64_t group = place / width, within = place - group * width;
      if (within >= p.segments.group_width || group * p.segments.group_width + within >= p.segments.in)
        codes[place] = 0;
    }
  }
  if (is_real && lane == 0) p.to.rows[token] = grid;
  if (sums == nullptr) {
    total = row_sum<Lanes>(total);
    if (is_real && lane == 0) p.to.sums[token] = total;
    return;
  }
  __syncthreads();
  if (!is_real) return;
  for (int64_t s = lane; s < p.segments.count; s += Lanes) p.to.sums[token * p.segments.count + s] = sums[s];
}

// The row's sums of segments; clears those of all rows of the block.
template <int Lanes>
__device__ __forceinline__ int32_t* segment_sums(const RoundProblem& p) {
  PARE_SHARED_BYTES(shared);
  if (p.segments.count == 1) return nullptr;
  auto* all = reinterpret_cast<int32_t*>(shared);
  const int64_t count = kRowsOf<Lanes> * p.segments.count;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) all[i] = 0;
  __syncthreads();
  return all + int(threadIdx.x) / Lanes % kRowsOf<Lanes> * p.segments.count;
}

template <int Lanes>
__device__ __forceinline__ int64_t own_row() {
  return int64_t(blockIdx.x) * kRowsOf<Lanes> + int(threadIdx.x) / Lanes % kRowsOf<Lanes>;
}

inline RoundProblem round_problem_of(const PackedMatrix& weight, int64_t m, void* workspace) {
  const ActivationQuant& activation = *weight.activation;
  RoundProblem p;
  p.segments = int8_segments(weight);
  p.to = int8_rows(p.segments, m, workspace);
  p.is_static = activation.mode == ActivationQuant::Mode::static_tensor;
  p.is_symmetric = activation.symmetric;
  p.bottom = activation.lowest_code(), p.top = activation.highest_code();
  p.scale = activation.scale, p.zero_point = activation.zero_point;
  return p;
}

template <int Lanes>
LaunchShape round_shape(const RoundProblem& p, int64_t m) {
  const size_t sums = p.segments.count == 1 ? 0 : size_t(kRowsOf<Lanes> * p.segments.count) * sizeof(int32_t);
  return {.grid = blocks_for(m, kRowsOf<Lanes>), .block = kThreadsOf<Lanes>, .shared_bytes = sums};
}

}  // namespace pare::cuda
