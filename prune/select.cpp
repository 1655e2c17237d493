#include "prune/select.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/core/parallel.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr int64_t kBins = 1 << 16;
constexpr int64_t kPiece = 1 << 18;  // scores of a piece of work
constexpr int64_t kRowsPerItem = 16;

// Bits of a float >= 0 rise with its value; -0 becomes +0.
uint32_t key_of(float score) {
  const auto bits = std::bit_cast<uint32_t>(score);
  return bits == 0x80000000u ? 0u : bits;
}

// bins[f(key)] += 1 over the scores that `counts` accepts; integers, so that the order of pieces is no
// matter.
template <class Accept, class Bin>
void add_counts(std::span<const float> scores, std::vector<int64_t>& bins, Accept accept, Bin bin) {
  const auto size = int64_t(scores.size());
  const int64_t pieces = (size + kPiece - 1) / kPiece;
  const int64_t workers = std::min<int64_t>(pieces, thread_count());
  if (workers <= 1) {
    for (const float score : scores) {
      const uint32_t key = key_of(score);
      if (accept(key)) ++bins[bin(key)];
    }
    return;
  }
  std::vector<std::vector<int64_t>> partial(size_t(workers), std::vector<int64_t>(bins.size(), 0));
  parallel_for(workers, [&](int64_t worker) {
    std::vector<int64_t>& mine = partial[size_t(worker)];
    const int64_t first = pieces * worker / workers * kPiece;
    const int64_t last = std::min(size, pieces * (worker + 1) / workers * kPiece);
    for (int64_t i = first; i < last; ++i) {
      const uint32_t key = key_of(scores[size_t(i)]);
      if (accept(key)) ++mine[bin(key)];
    }
  });
  for (const std::vector<int64_t>& mine : partial)
    for (size_t i = 0; i < bins.size(); ++i) bins[i] += mine[i];
}

// The bin in which number k (from 0) lies; below: how many lie in the bins before it.
size_t bin_of(const std::vector<int64_t>& bins, int64_t k, int64_t& below) {
  below = 0;
  for (size_t i = 0; i + 1 < bins.size(); ++i) {
    if (below + bins[i] > k) return i;
    below += bins[i];
  }
  return bins.size() - 1;
}

// Removes the k lowest of one row from its bits. order: scratch.
void remove_lowest(const float* scores, int64_t count, int64_t k,
                   std::vector<std::pair<uint32_t, int32_t>>& order, Mask& mask, int64_t row, int64_t begin) {
  if (k <= 0) return;
  order.clear();
  for (int64_t i = 0; i < count; ++i) order.emplace_back(key_of(scores[i]), int32_t(i));
  if (k < count) std::nth_element(order.begin(), order.begin() + k, order.end());
  for (int64_t i = 0; i < std::min(k, count); ++i) mask.set(row, begin + order[size_t(i)].second, false);
}

}  // namespace

CutFinder::CutFinder() : upper_(size_t(kBins), 0) {}
CutFinder::~CutFinder() = default;

void CutFinder::count_upper(std::span<const float> scores) {
  add_counts(
      scores, upper_, [](uint32_t) { return true; }, [](uint32_t key) { return key >> 16; });
}

void CutFinder::choose_upper(int64_t k) {
  k_ = k;
  prefix_ = uint32_t(bin_of(upper_, k, below_));
  lower_.assign(size_t(kBins), 0);
}

void CutFinder::count_lower(std::span<const float> scores) {
  const uint32_t prefix = prefix_;
  add_counts(
      scores, lower_, [prefix](uint32_t key) { return key >> 16 == prefix; },
      [](uint32_t key) { return key & 0xffffu; });
}

Cut CutFinder::cut() const {
  int64_t below = 0;
  const size_t low = bin_of(lower_, k_ - below_, below);
  return {.score = std::bit_cast<float>(prefix_ << 16 | uint32_t(low)),
          .ties = k_ - below_ - below,
          .below = below_ + below};
}

Cut find_cut(std::span<const float> scores, int64_t k) {
  CutFinder finder;
  finder.count_upper(scores);
  finder.choose_upper(k);
  finder.count_lower(scores);
  return finder.cut();
}

Result<Mask> mask_below(const Tensor& scores, const Cut& cut, int64_t* ties) {
  const int64_t out = scores.size(0), in = scores.size(1), row_bytes = (in + 7) / 8;
  PARE_TRY(Tensor bits, Tensor::allocate(DType::u8, {out, row_bytes}));
  const float* data = scores.data<float>();
  const uint32_t limit = key_of(cut.score);
  std::vector<int64_t> equal(size_t(out), 0);
  uint8_t* target = bits.mutable_data<uint8_t>();
  // Scores equal to the cut stay at first.
  parallel_ranges(out, kRowsPerItem, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      int64_t found = 0;
      for (int64_t byte = 0; byte < row_bytes; ++byte) {
        unsigned kept = 0;
        for (int64_t i = byte * 8; i < std::min(in, byte * 8 + 8); ++i) {
          const uint32_t key = key_of(data[row * in + i]);
          kept |= unsigned(key >= limit) << (i - byte * 8);
          found += key == limit;
        }
        target[row * row_bytes + byte] = uint8_t(kept);
      }
      equal[size_t(row)] = found;
    }
  });
  Mask mask(std::move(bits), out, in);
  for (int64_t row = 0; row<out&& * ties> 0; ++row) {
    if (equal[size_t(row)] == 0) continue;
    for (int64_t i = 0; i<in&& * ties> 0; ++i) {
      if (key_of(data[row * in + i]) != limit) continue;
      mask.set(row, i, false);
      --*ties;
    }
  }
  return mask;
}

Result<Mask> select_matrix(const Tensor& scores, int64_t k) {
  const int64_t out = scores.size(0), in = scores.size(1);
  if (k <= 0) return Mask::all_kept(out, in);
  const Cut cut = find_cut(std::span(scores.data<float>(), size_t(out * in)), k);
  int64_t ties = cut.ties;
  return mask_below(scores, cut, &ties);
}

Result<Mask> select_rows(const Tensor& scores, int64_t k) {
  const int64_t out = scores.size(0), in = scores.size(1);
  PARE_TRY(Mask mask, Mask::all_kept(out, in));
  parallel_ranges(out, kRowsPerItem, [&](int64_t first, int64_t last) {
    std::vector<std::pair<uint32_t, int32_t>> order;
    for (int64_t row = first; row < last; ++row)
      remove_lowest(scores.data<float>() + row * in, in, k, order, mask, row, 0);
  });
  return mask;
}

Result<Mask> select_n_of_m(const Tensor& scores, int n, int m) {
  const int64_t out = scores.size(0), in = scores.size(1), row_bytes = (in + 7) / 8;
  PARE_TRY(Tensor bits, Tensor::allocate(DType::u8, {out, row_bytes}));
  uint8_t* target = bits.mutable_data<uint8_t>();
  const float* data = scores.data<float>();
  parallel_ranges(out, kRowsPerItem, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      std::memset(target + row * row_bytes, 0, size_t(row_bytes));
      for (int64_t begin = 0; begin < in; begin += m) {
        const int width = int(std::min<int64_t>(m, in - begin));
        const int kept = width - (m - n) * width / m;
        uint32_t keys[16];
        for (int i = 0; i < width; ++i) keys[i] = key_of(data[row * in + begin + i]);
        for (int i = 0; i < width; ++i) {
          int lower = 0;  // how many go before this one
          for (int j = 0; j < width; ++j) lower += keys[j] < keys[i] || (keys[j] == keys[i] && j < i);
          const int64_t column = begin + i;
          if (lower >= width - kept) target[row * row_bytes + column / 8] |= uint8_t(1u << (column % 8));
        }
      }
    }
  });
  return Mask(std::move(bits), out, in);
}

Result<Mask> select_blocks(const Tensor& scores, const SparsityPattern& pattern, const Sparsity& share,
                           bool is_balanced) {
  const int64_t out = scores.size(0), in = scores.size(1);
  const int64_t rows = pattern.block_rows, columns = pattern.block_columns;
  const int64_t across = (in + columns - 1) / columns, down = (out + rows - 1) / rows;
  PARE_TRY(Tensor means, Tensor::allocate(DType::f32, {down, across}));
  parallel_ranges(down, 1, [&](int64_t first, int64_t last) {
    for (int64_t top = first; top < last; ++top) {
      for (int64_t left = 0; left < across; ++left) {
        double sum = 0.0;
        const int64_t bottom = std::min(out, (top + 1) * rows), right = std::min(in, (left + 1) * columns);
        for (int64_t r = top * rows; r < bottom; ++r)
          for (int64_t c = left * columns; c < right; ++c) sum += double(scores.data<float>()[r * in + c]);
        const int64_t size = (bottom - top * rows) * (right - left * columns);
        means.mutable_data<float>()[top * across + left] = float(sum / double(size));
      }
    }
  });
  Result<Mask> chosen = is_balanced ? select_rows(means, share.count(across))
                                    : select_matrix(means, share.count(across * down));
  if (!chosen) return chosen.error();
  PARE_TRY(Mask mask, Mask::all_kept(out, in));
  parallel_ranges(down, 1, [&](int64_t first, int64_t last) {
    for (int64_t r = first * rows; r < std::min(out, last * rows); ++r)
      for (int64_t c = 0; c < in; ++c)
        if (!chosen->kept(r / rows, c / columns)) mask.set(r, c, false);
  });
  return mask;
}

Result<Mask> select_weights(const Tensor& scores, const PruneTarget& target, Scope scope,
                            std::string_view name) {
  const auto choose = [&]() -> Result<Mask> {
    switch (target.pattern.kind) {
      case SparsityPattern::Kind::n_of_m:
        return select_n_of_m(scores, target.pattern.n, target.pattern.m);
      case SparsityPattern::Kind::block:
        return select_blocks(scores, target.pattern, target.sparsity, scope == Scope::row);
      default:
        return scope == Scope::row ? select_rows(scores, target.sparsity.count(scores.size(1)))
                                   : select_matrix(scores, target.sparsity.count(scores.numel()));
    }
  };
  PARE_TRY(Mask mask, choose());
  PARE_CHECK(mask.verify(target.pattern, name));
  return mask;
}

}  // namespace pare
