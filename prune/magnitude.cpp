#include "prune/magnitude.h"

#include <algorithm>
#include <array>

#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/tensor_scan.h"

namespace pare {
namespace {

constexpr size_t kBins = 1 << 15;
constexpr int64_t kPiece = 1 << 18;  // weights of a piece of work
constexpr uint16_t kMagnitude = 0x7fff;

struct CutCounts {
  int64_t ties = 0, zeros = 0;
};

// to = from without what is below the key. Counts are kept in 16 bits for as long as they fit, so that all of
// it is vector operations on 16-bit lanes.
inline __attribute__((always_inline)) CutCounts cut_body(const uint16_t* __restrict from,
                                                         uint16_t* __restrict to, int64_t count,
                                                         uint16_t key) {
  constexpr int64_t kRun = 32768;
  CutCounts counts;
  for (int64_t begin = 0; begin < count; begin += kRun) {
    const int64_t end = std::min(count, begin + kRun);
    uint16_t ties = 0, zeros = 0;
    for (int64_t i = begin; i < end; ++i) {
      const auto magnitude = uint16_t(from[i] & kMagnitude);
      const auto kept = uint16_t(magnitude < key ? 0 : from[i]);
      to[i] = kept;
      ties = uint16_t(ties + (magnitude == key ? 1 : 0));
      zeros = uint16_t(zeros + ((kept & kMagnitude) == 0 ? 1 : 0));
    }
    counts.ties += ties;
    counts.zeros += zeros;
  }
  return counts;
}

// One function per level: the same source, compiled for its vectors.
using CutPiece = CutCounts (*)(const uint16_t* from, uint16_t* to, int64_t count, uint16_t key);
CutCounts cut_generic(const uint16_t* from, uint16_t* to, int64_t count, uint16_t key) {
  return cut_body(from, to, count, key);
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) CutCounts cut_avx2(const uint16_t* from, uint16_t* to, int64_t count,
                                                   uint16_t key) {
  return cut_body(from, to, count, key);
}
__attribute__((target("avx512f,avx512vl,avx512bw"))) CutCounts cut_avx512(const uint16_t* from, uint16_t* to,
                                                                          int64_t count, uint16_t key) {
  return cut_body(from, to, count, key);
}
#endif

CutPiece cut_piece() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) return cut_avx512;
  if (__builtin_cpu_supports("avx2")) return cut_avx2;
#endif
  return cut_generic;
}

int64_t pieces_of(int64_t size) {
  return (size + kPiece - 1) / kPiece;
}

}  // namespace

MagnitudeCounts::MagnitudeCounts() : bins_(kBins, 0) {}

Status MagnitudeCounts::add(const Tensor& weight, const std::string& name, const std::string& path) {
  PARE_ASSERT(weight.dtype() == DType::bf16 || weight.dtype() == DType::f16, "[magnitude] {}", name);
  dtype_ = weight.dtype();
  const uint16_t* data = weight.data<uint16_t>();
  const int64_t size = weight.numel(), pieces = pieces_of(size);
  const int64_t workers = std::clamp<int64_t>(thread_count(), 1, std::max<int64_t>(1, pieces));
  // Neighbours are often equal: two tables per worker, so that one increment does not wait for the other.
  using Table = std::vector<uint32_t>;
  std::vector<std::array<Table, 2>> partial(static_cast<size_t>(workers));
  parallel_for(workers, [&](int64_t worker) {
    auto& [even, odd] = partial[size_t(worker)];
    even.assign(kBins, 0), odd.assign(kBins, 0);
    const int64_t first = pieces * worker / workers * kPiece;
    const int64_t last = std::min(size, pieces * (worker + 1) / workers * kPiece);
    int64_t i = first;
    for (; i + 2 <= last; i += 2) {
      ++even[data[i] & kMagnitude];
      ++odd[data[i + 1] & kMagnitude];
    }
    if (i < last) ++even[data[i] & kMagnitude];
  });
  for (const auto& tables : partial)
    for (const Table& table : tables)
      for (size_t i = 0; i < kBins; ++i) bins_[i] += table[i];
  // Exponents of ones only are infinities and NaN; rare, so that the place is looked for afterwards.
  const size_t limit = weight.dtype() == DType::bf16 ? 0x7f80 : 0x7c00;
  for (size_t i = limit; i < kBins; ++i)
    if (bins_[i] != 0) return require_finite(weight, name, path);
  return {};
}

void MagnitudeCounts::add(const MagnitudeCounts& other) {
  for (size_t i = 0; i < kBins; ++i) bins_[i] += other.bins_[i];
}

MagnitudeCounts::Cut MagnitudeCounts::cut(int64_t k) const {
  int64_t below = 0;
  for (size_t i = 0; i < kBins; ++i) {
    if (below + bins_[i] > k) return {.key = uint16_t(i), .ties = k - below};
    below += bins_[i];
  }
  return {.key = uint16_t(kBins), .ties = 0};  // everything
}

MagnitudeCounts::Energy MagnitudeCounts::energy(const Cut& cut) const {
  Energy energy;
  for (size_t i = 0; i < kBins; ++i) {
    if (bins_[i] == 0) continue;
    const auto bits = uint16_t(i);
    const double value = double(dtype_ == DType::bf16 ? bf16_to_float(bits) : f16_to_float(bits));
    const int64_t gone = bits < cut.key ? bins_[i] : bits == cut.key ? std::min(cut.ties, bins_[i]) : 0;
    energy.total += double(bins_[i]) * value * value;
    energy.removed += double(gone) * value * value;
    if (gone > 0) energy.largest_removed = value;
  }
  return energy;
}

Result<Tensor> cut_magnitudes(const Tensor& weight, MagnitudeCounts::Cut& end, int64_t* zeros) {
  PARE_ASSERT(weight.is_contiguous(), "[magnitude] {}", weight.shape().text());
  PARE_TRY(Tensor result, Tensor::allocate(weight.dtype(), weight.shape()));
  const uint16_t* from = weight.data<uint16_t>();
  uint16_t* to = result.mutable_data<uint16_t>();
  const int64_t size = weight.numel(), pieces = pieces_of(size);
  const uint16_t key = end.key;
  const CutPiece cut = cut_piece();
  std::vector<int64_t> equal(size_t(pieces), 0), zero(size_t(pieces), 0);
  parallel_for(pieces, [&](int64_t piece) {
    const int64_t first = piece * kPiece, last = std::min(size, first + kPiece);
    const CutCounts counts = cut(from + first, to + first, last - first, key);
    equal[size_t(piece)] = counts.ties;
    zero[size_t(piece)] = counts.zeros;
  });
  // The first ties in row order; each piece gets its share.
  std::vector<int64_t> share(size_t(pieces), 0);
  for (size_t piece = 0; piece < share.size() && end.ties > 0; ++piece) {
    share[piece] = std::min(end.ties, equal[piece]);
    end.ties -= share[piece];
    if (key != 0) zero[piece] += share[piece];
  }
  parallel_for(pieces, [&](int64_t piece) {
    int64_t left = share[size_t(piece)];
    const int64_t last = std::min(size, (piece + 1) * kPiece);
    for (int64_t i = piece * kPiece; i < last && left > 0; ++i) {
      if ((from[i] & kMagnitude) != key) continue;
      to[i] = 0;
      --left;
    }
  });
  *zeros = 0;
  for (const int64_t count : zero) *zeros += count;
  return result;
}

}  // namespace pare
