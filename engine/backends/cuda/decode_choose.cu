// The choice of the next id (DecodeChooseArgs), in two or three launches for all rows:
//   scan   many blocks per row: the largest logit after the penalty, and faults
//   bins   many blocks per row: how many logits, and how much probability, lie within each 1/32 below the
//          largest; rows that draw only
//   draw   one block per row: finds the place of a threshold in the order of candidates (larger logit first,
//   then
//          smaller id), bin first, then digit by digit of the logit's bits among the candidates of that bin
// All cuts (top-k, top-p, min-p) keep a prefix of that order, so each only lowers the total. Counts and
// shares of probability are integers: atomics in any order give the same sums.
#include "engine/backends/cuda/decode_class.h"
#include "engine/backends/cuda/kernel.h"
#include "engine/core/random.h"

namespace pare::cuda {
namespace {

using Wide = unsigned long long;

constexpr int kScanThreads = 256, kScanBlocks = 64;
constexpr int kDrawThreads = 1024;
constexpr int kBins = kDrawThreads;  // of 1/32 each; the last one holds everything below
constexpr float kBinsPerUnit = 32.0f;
constexpr int kDigitValues = 2048;  // 11, 11 and 10 bits
constexpr int kListed = 2048;       // candidates of a bin that fit shared memory
constexpr uint32_t kInfinityKey = 0xff800000u, kMinusInfinityKey = 0x007fffffu;

// What the kernels share, per row.
struct Workspace {
  Wide best[kScanBlocks];  // key of the logit, then the complement of the id: the maximum comes first
  Wide weights[kBins];
  unsigned counts[kBins];
};

// The order of floats as the order of integers; both zeros are one.
__device__ __forceinline__ uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

struct RowLogits {
  const float* logits;
  const uint32_t* seen;  // null: no penalty
  float penalty, temperature;

  __device__ RowLogits(const DecodeChooseArgs& a, int64_t row) {
    const DecodeSampling& sampling = a.state.sampling[row];
    logits = a.logits + row * a.columns;
    penalty = sampling.repetition_penalty;
    seen = a.state.seen != nullptr && penalty != 1.0f ? a.state.seen + row * a.state.words : nullptr;
    temperature = sampling.temperature;
  }
  __device__ __forceinline__ float penalised(int64_t i) const {
    const float logit = logits[i];
    if (seen == nullptr || (seen[i / 32] >> (i % 32) & 1u) == 0) return logit;
    return logit > 0.0f ? logit / penalty : logit * penalty;
  }
  __device__ __forceinline__ float scaled(int64_t i) const { return penalised(i) / temperature; }
};

__device__ __forceinline__ Wide warp_largest(Wide value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const Wide other = __shfl_xor_sync(kAllLanes, value, offset);
    value = value < other ? other : value;
  }
  return value;
}

__global__ void __launch_bounds__(kScanThreads) choose_scan_kernel(DecodeChooseArgs a, Workspace* rows) {
  __shared__ Wide partial[kScanThreads / kWarp];
  ptx::release_successor();
  ptx::wait_for_predecessor();
  const int64_t row = blockIdx.y;
  const RowLogits logits(a, row);
  Wide best = 0;
  for (int64_t i = int64_t(blockIdx.x) * kScanThreads + threadIdx.x; i < a.columns;
       i += int64_t(kScanBlocks) * kScanThreads) {
    const float x = logits.penalised(i);
    const Wide candidate = x == x ? Wide(key_of(x)) << 32 | (0xffffffffu - uint32_t(i)) : ~Wide(0);
    best = best < candidate ? candidate : best;
  }
  best = warp_largest(best);
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = best;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < kScanThreads / kWarp; ++i) best = best < partial[i] ? partial[i] : best;
    rows[row].best[blockIdx.x] = best;
  }
  if (a.is_greedy || blockIdx.x != 0) return;
  for (int i = int(threadIdx.x); i < kBins; i += kScanThreads)
    rows[row].counts[i] = 0, rows[row].weights[i] = 0;
}

// The best of all blocks of the scan; every thread of the block calls, `partial` is shared.
__device__ __forceinline__ Wide best_of(const Workspace& row, Wide* partial) {
  if (threadIdx.x < kWarp) {
    Wide best = 0;
    for (int i = int(threadIdx.x); i < kScanBlocks; i += kWarp)
      best = best < row.best[i] ? row.best[i] : best;
    best = warp_largest(best);
    if (threadIdx.x == 0) *partial = best;
  }
  __syncthreads();
  return *partial;
}

// Whether a row with this best draws; otherwise its best is chosen, or it is a fault.
__device__ __forceinline__ bool draws(const RowLogits& logits, Wide best) {
  const auto key = uint32_t(best >> 32);
  if (key >= kInfinityKey || key <= kMinusInfinityKey) return false;
  const float scaled = value_of(key) / logits.temperature;  // so small a temperature that it means greedy
  return logits.temperature > 0.0f && fabsf(scaled) < INFINITY;
}

__device__ __forceinline__ Wide weight_of(float scaled, float largest) {
  return Wide(llrintf(expf(scaled - largest) * 0x1p40f));
}
// Never falls while the logit falls.
__device__ __forceinline__ int bin_of(float scaled, float largest) {
  const float distance = (largest - scaled) * kBinsPerUnit;
  return distance < float(kBins - 1) ? int(distance) : kBins - 1;
}
__device__ __forceinline__ bool is_candidate(float scaled) {
  return scaled > -INFINITY;
}

__global__ void __launch_bounds__(kScanThreads) choose_bins_kernel(DecodeChooseArgs a, Workspace* rows) {
  __shared__ Wide best;
  __shared__ Wide weights[kBins];
  __shared__ unsigned counts[kBins];
  ptx::release_successor();
  ptx::wait_for_predecessor();
  const int64_t row = blockIdx.y;
  const RowLogits logits(a, row);
  const Wide largest_key = best_of(rows[row], &best);
  if (!draws(logits, largest_key)) return;
  const float largest = value_of(uint32_t(largest_key >> 32)) / logits.temperature;
  for (int i = int(threadIdx.x); i < kBins; i += kScanThreads) counts[i] = 0, weights[i] = 0;
  __syncthreads();
  for (int64_t i = int64_t(blockIdx.x) * kScanThreads + threadIdx.x; i < a.columns;
       i += int64_t(kScanBlocks) * kScanThreads) {
    const float scaled = logits.scaled(i);
    if (!is_candidate(scaled)) continue;
    const int bin = bin_of(scaled, largest);
    atomicAdd(&counts[bin], 1u);
    atomicAdd(&weights[bin], weight_of(scaled, largest));
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < kBins; i += kScanThreads) {
    if (counts[i] == 0) continue;
    atomicAdd(&rows[row].counts[i], counts[i]);
    atomicAdd(&rows[row].weights[i], weights[i]);
  }
}

// One row being drawn. Every method is called by all threads of the block.
class Draw {
 public:
  struct Shared {
    Wide weights[kBins];  // of all bins up to this one
    Wide counts[kBins];
    Wide digits[kDigitValues];
    Wide totals[kDrawThreads / kWarp];
    uint32_t keys[kListed];
    int32_t ids[kListed];
    Wide rest;  // of the threshold, within what was found last
    unsigned listed;
    int found;
    int32_t id;
  };
  struct Place {
    uint32_t key;
    Wide index;   // among the candidates with this key, by id
    Wide before;  // weight of all candidates in front of those
    Wide weight;  // of one of them
  };

  __device__ Draw(const RowLogits& logits, int64_t columns, float largest, const Workspace& row,
                  Shared& shared)
      : logits_(logits), columns_(columns), largest_(largest), shared_(shared) {
    shared_.weights[threadIdx.x] = scan(row.weights[threadIdx.x]);
    shared_.counts[threadIdx.x] = scan(row.counts[threadIdx.x]);
    __syncthreads();
  }
  __device__ Wide total_weight() const { return shared_.weights[kBins - 1]; }
  __device__ Wide count() const { return shared_.counts[kBins - 1]; }

  // Where the candidates in front come to `threshold` at most, and to more with the one at the place: by
  // weight or by number. threshold is below the total.
  __device__ Place locate(Wide threshold, bool by_weight) {
    const Wide* sums = by_weight ? shared_.weights : shared_.counts;
    const int i = int(threadIdx.x);
    if (sums[i] > threshold && (i == 0 || sums[i - 1] <= threshold)) {
      shared_.found = i;
      shared_.rest = threshold - (i == 0 ? 0 : sums[i - 1]);
    }
    __syncthreads();
    bin_ = shared_.found;
    list_candidates();
    uint32_t key = 0;
    int shift = 32;
    for (const int bits : {11, 11, 10}) {
      shift -= bits;
      for (int d = i; d < kDigitValues; d += kDrawThreads) shared_.digits[d] = 0;
      __syncthreads();
      const uint32_t mask = (1u << bits) - 1;
      each_candidate([&](uint32_t candidate, int32_t, float scaled) {
        if (shift + bits < 32 && candidate >> (shift + bits) != key >> (shift + bits)) return;
        atomicAdd(&shared_.digits[candidate >> shift & mask],
                  by_weight ? weight_of(scaled, largest_) : Wide(1));
      });
      __syncthreads();
      key |= uint32_t(find_digit()) << shift;
    }
    Place place{.key = key, .index = shared_.rest, .before = 0, .weight = weight_of(value_of(key), largest_)};
    if (by_weight) {
      place.before = threshold - shared_.rest;
      place.index = shared_.rest / place.weight;
    } else {
      Wide weight = 0;
      each_candidate([&](uint32_t candidate, int32_t, float scaled) {
        if (candidate > key) weight += weight_of(scaled, largest_);
      });
      place.before = sum(weight) + (bin_ == 0 ? 0 : shared_.weights[bin_ - 1]);
    }
    __syncthreads();
    return place;
  }

  // The id at a place that locate() has just found.
  __device__ int32_t id_at(const Place& place) {
    // Ids of the same key, a run of them per thread.
    const int64_t run = (columns_ + kDrawThreads - 1) / kDrawThreads;
    const int64_t begin = int64_t(threadIdx.x) * run, end = begin + run < columns_ ? begin + run : columns_;
    Wide mine = 0;
    for (int64_t i = begin; i < end; ++i) mine += is_at(i, place.key) ? 1 : 0;
    const Wide behind = scan(mine);
    if (place.index < behind && place.index >= behind - mine) {
      Wide left = place.index - (behind - mine);
      int64_t i = begin;
      while (!is_at(i, place.key) || left-- > 0) ++i;
      shared_.id = int32_t(i);
    }
    __syncthreads();
    return shared_.id;
  }

  // Weight of all candidates that have at least `least`.
  __device__ Wide weight_above(Wide least) {
    Wide weight = 0;
    for (int64_t i = threadIdx.x; i < columns_; i += kDrawThreads) {
      const float scaled = logits_.scaled(i);
      const Wide own = is_candidate(scaled) ? weight_of(scaled, largest_) : 0;
      weight += own >= least ? own : 0;
    }
    return sum(weight);
  }

 private:
  __device__ bool is_at(int64_t i, uint32_t key) const {
    const float scaled = logits_.scaled(i);
    return is_candidate(scaled) && key_of(scaled) == key;
  }

  // Sum of the values of all threads up to this one.
  __device__ Wide scan(Wide value) {
    const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const Wide other = __shfl_up_sync(kAllLanes, value, unsigned(offset));
      if (lane >= offset) value += other;
    }
    __syncthreads();  // totals may still be read
    if (lane == kWarp - 1) shared_.totals[warp] = value;
    __syncthreads();
    for (int i = 0; i < warp; ++i) value += shared_.totals[i];
    return value;
  }
  __device__ Wide sum(Wide value) {
    scan(value);
    Wide total = 0;
    for (int i = 0; i < kDrawThreads / kWarp; ++i) total += shared_.totals[i];
    return total;
  }

  // The largest digit at which the sum from above exceeds what is left of the threshold.
  __device__ int find_digit() {
    const int high = kDigitValues - 1 - 2 * int(threadIdx.x);
    const Wide upper = shared_.digits[high], both = upper + shared_.digits[high - 1];
    const Wide before = scan(both) - both, rest = shared_.rest;
    __syncthreads();  // everyone has read the rest
    if (before <= rest && rest < before + both) {
      const bool is_upper = rest < before + upper;
      shared_.found = is_upper ? high : high - 1;
      shared_.rest = rest - before - (is_upper ? 0 : upper);
    }
    __syncthreads();
    return shared_.found;
  }

  // The candidates of a bin in shared memory, if they fit; their order does not matter.
  __device__ void list_candidates() {
    const Wide count = shared_.counts[bin_] - (bin_ == 0 ? 0 : shared_.counts[bin_ - 1]);
    is_listed_ = count <= kListed;
    if (!is_listed_) return;
    if (threadIdx.x == 0) shared_.listed = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < columns_; i += kDrawThreads) {
      const float scaled = logits_.scaled(i);
      if (!is_candidate(scaled) || bin_of(scaled, largest_) != bin_) continue;
      const unsigned at = atomicAdd(&shared_.listed, 1u);
      shared_.keys[at] = key_of(scaled);
      shared_.ids[at] = int32_t(i);
    }
    __syncthreads();
  }
  template <typename Visit>
  __device__ __forceinline__ void each_candidate(Visit visit) {
    if (is_listed_) {
      for (unsigned i = threadIdx.x; i < shared_.listed; i += kDrawThreads)
        visit(shared_.keys[i], shared_.ids[i], value_of(shared_.keys[i]));
      return;
    }
    for (int64_t i = threadIdx.x; i < columns_; i += kDrawThreads) {
      const float scaled = logits_.scaled(i);
      if (is_candidate(scaled) && bin_of(scaled, largest_) == bin_) visit(key_of(scaled), int32_t(i), scaled);
    }
  }

  const RowLogits& logits_;
  int64_t columns_;
  float largest_;
  Shared& shared_;
  int bin_ = 0;
  bool is_listed_ = false;
};

// 24 random bits: engine/core/random.h, Random(key).bits(draw)[0] >> 8.
__device__ __forceinline__ uint32_t drawn_bits(const DecodeSampling& sampling, int32_t draw) {
  uint32_t counter[4] = {uint32_t(draw), 0, 0, uint32_t(RandomPurpose::sampling)};
  uint32_t key[2] = {sampling.key[0], sampling.key[1]};
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(0xd2511f53u, counter[0]), low0 = 0xd2511f53u * counter[0];
    const uint32_t high1 = __umulhi(0xcd9e8d57u, counter[2]), low1 = 0xcd9e8d57u * counter[2];
    const uint32_t second = counter[1], fourth = counter[3];
    counter[0] = high1 ^ second ^ key[0];
    counter[1] = low1;
    counter[2] = high0 ^ fourth ^ key[1];
    counter[3] = low0;
    key[0] += 0x9e3779b9u;
    key[1] += 0xbb67ae85u;
  }
  return counter[0] >> 8;
}

__device__ __forceinline__ int32_t drawn_id(Draw& draw, const DecodeSampling& sampling, int32_t number) {
  Wide total = draw.total_weight();
  if (sampling.top_k > 0 && Wide(sampling.top_k) < draw.count()) {
    const Draw::Place last = draw.locate(Wide(sampling.top_k) - 1, /*by_weight=*/false);
    total = last.before + (last.index + 1) * last.weight;
  }
  if (sampling.top_p < 1.0) {
    const Wide share = Wide(sampling.top_p * double(total));
    const Draw::Place last = draw.locate(share > 0 ? share - 1 : 0, /*by_weight=*/true);
    total = last.before + (last.index + 1) * last.weight;
  }
  if (sampling.min_p > 0.0) {
    const Wide kept = draw.weight_above(Wide(ceil(sampling.min_p * 0x1p40)));
    total = kept < total ? kept : total;
  }
  const Wide bits = drawn_bits(sampling, number);
  const Wide threshold = __umul64hi(total, bits) << 40 | total * bits >> 24;
  return draw.id_at(draw.locate(threshold, /*by_weight=*/true));
}

__global__ void __launch_bounds__(kDrawThreads)
    choose_draw_kernel(DecodeChooseArgs a, const Workspace* rows) {
  __shared__ Wide best;
  PARE_SHARED_BYTES(shared);
  ptx::release_successor();
  ptx::wait_for_predecessor();
  const int64_t row = blockIdx.x;
  const DecodeState& state = a.state;
  const RowLogits logits(a, row);
  const Wide largest = best_of(rows[row], &best);
  const auto key = uint32_t(largest >> 32);
  const int32_t number = state.draws[row];
  int32_t id = int32_t(0xffffffffu - uint32_t(largest));
  if (key > kInfinityKey) {
    id = kDecodeNan;
  } else if (key == kInfinityKey) {
    id = kDecodeInfinity;
  } else if (key <= kMinusInfinityKey) {
    id = kDecodeNothing;
  } else if (!a.is_greedy && draws(logits, largest)) {
    Draw draw(logits, a.columns, value_of(key) / logits.temperature, rows[row],
              *reinterpret_cast<Draw::Shared*>(shared));
    id = drawn_id(draw, state.sampling[row], number);
  }
  __syncthreads();  // everyone has read the state
  if (threadIdx.x != 0) return;
  state.ring[int64_t(number % int32_t(state.slots)) * state.ring_stride + row] = id;
  state.ids[row] = id < 0 ? 0 : id;
  if (state.seen != nullptr && id >= 0) state.seen[row * state.words + id / 32] |= 1u << (id % 32);
  state.draws[row] = number + 1;
  if (a.advance && state.positions[row] < state.last_position) ++state.positions[row];
}

}  // namespace

size_t CudaDecode::choose_workspace_bytes(int64_t rows, int64_t) const {
  return size_t(rows) * sizeof(Workspace);
}

void CudaDecode::choose(const DecodeChooseArgs& a) {
  auto* rows = static_cast<Workspace*>(a.workspace);
  const dim3 many(kScanBlocks, unsigned(a.state.rows));
  context_.launch("choose_scan", choose_scan_kernel,
                  {.grid = many, .block = kScanThreads, .is_dependent = true}, a, rows);
  if (!a.is_greedy)
    context_.launch("choose_bins", choose_bins_kernel,
                    {.grid = many, .block = kScanThreads, .is_dependent = true}, a, rows);
  context_.launch("choose_draw", choose_draw_kernel,
                  {.grid = unsigned(a.state.rows),
                   .block = kDrawThreads,
                   .shared_bytes = a.is_greedy ? 0 : sizeof(Draw::Shared),
                   .is_dependent = true},
                  a, rows);
}

}  // namespace pare::cuda
