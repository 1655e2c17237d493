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

Result<Tensor> cut_magnitudes(const Tensor& weight, MagnitudeCounts::Cut& cut, int64_t* zeros) {
  PARE_ASSERT(weight.is_contiguous(), "[magnitude] {}", weight.shape().text());
  PARE_TRY(Tensor result, Tensor::allocate(weight.dtype(), weight.shape()));
  const uint16_t* from = weight.data<uint16_t>();
  uint16_t* to = result.mutable_data<uint16_t>();
  const int64_t size = weight.numel(), pieces = pieces_of(size);
  const uint16_t key = cut.key;
  std::vector<int64_t> equal(size_t(pieces), 0), zero(size_t(pieces), 0);
  parallel_for(pieces, [&](int64_t piece) {
    const int64_t first = piece * kPiece, last = std::min(size, first + kPiece);
    int32_t ties = 0, gone = 0;
    for (int64_t i = first; i < last; ++i) {
      const auto magnitude = uint16_t(from[i] & kMagnitude);
      const uint16_t value = magnitude < key ? uint16_t{0} : from[i];
      to[i] = value;
      ties += magnitude == key;
      gone += (value & kMagnitude) == 0;
    }
    equal[size_t(piece)] = ties;
    zero[size_t(piece)] = gone;
  });
  // The first ties in row order; each piece gets its share.
  std::vector<int64_t> share(size_t(pieces), 0);
  for (size_t piece = 0; piece < share.size() && cut.ties > 0; ++piece) {
    share[piece] = std::min(cut.ties, equal[piece]);
    cut.ties -= share[piece];
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
