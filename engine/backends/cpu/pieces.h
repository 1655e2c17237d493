// engine/backends/cpu/pieces.h: rows of an operation cut into pieces of work, by shape alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/core/parallel.h"

namespace pare::cpu {

// Elements that one piece of work covers at least: a few microseconds, well above the cost of handing it
// over.
constexpr int64_t kPieceElements = 16'384;

// body(begin, end) over pieces of [0, rows); small inputs stay on the calling thread.
template <typename Body>
void for_rows(int64_t rows, int64_t elements_per_row, const Body& body) {
  struct Cut {
    const Body& body;
    int64_t rows, grain;
  };
  const Cut cut{body, rows, std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, elements_per_row))};
  if (cut.rows <= cut.grain) {
    body(int64_t{0}, cut.rows);
    return;
  }
  // One captured pointer fits into std::function, so nothing is allocated.
  parallel_for((rows - 1) / cut.grain + 1, [&cut](int64_t piece) {
    const int64_t begin = piece * cut.grain;
    cut.body(begin, std::min(cut.rows, begin + cut.grain));
  });
}

// body(begin, end) over [0, channels), for sums over `tokens` that each channel makes by itself: one stripe
// per thread, as wide as can be, since memory is read row by row. No result depends on the cut.
template <typename Body>
void for_channels(int64_t channels, int64_t tokens, const Body& body) {
  struct Cut {
    const Body& body;
    int64_t channels, width;
  };
  constexpr int64_t kNarrowest = 64;
  const int64_t most = std::max<int64_t>(1, channels * tokens / kPieceElements);
  const int64_t stripes = std::min<int64_t>(most, thread_count());
  const int64_t narrowest = (channels + kNarrowest - 1) / kNarrowest;
  const Cut cut{body, channels, (narrowest + stripes - 1) / stripes * kNarrowest};
  parallel_for((channels + cut.width - 1) / cut.width, [&cut](int64_t stripe) {
    cut.body(stripe * cut.width, std::min(cut.channels, (stripe + 1) * cut.width));
  });
}

}  // namespace pare::cpu
