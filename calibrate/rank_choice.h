// calibrate/rank_choice.h: how many components of each matrix are kept. Pure functions of spectra.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/core/result.h"

namespace pare {

// The smallest rank that keeps `share` of the energy; all components when they do not reach it.
int64_t rank_by_energy(std::span<const double> spectrum, double energy, double share);
// The smallest rank with a relative output error of at most `error`.
int64_t rank_by_error(std::span<const double> spectrum, double energy, double error);

// The largest rank below min(out, in) with rank * (out + in) * factor_bytes < stored_bytes, the bytes of the
// matrix as it is; 0: none saves anything.
int64_t largest_saving_rank(int64_t out, int64_t in, uint64_t stored_bytes, int64_t factor_bytes);

// A matrix that competes for parameters.
struct RankCandidate {
  int64_t out = 0, in = 0;
  std::vector<double> spectrum;  // sigma_k^2, falling
  double energy = 0.0;
  int64_t largest_rank = 0;  // beyond it the matrix stays dense
  double weight = 1.0;       // what its relative energy counts (a sensitivity)
};

// Ranks, multiples of `multiple`, with at most `share` of all parameters of the candidates in factors and
// matrices that stay dense (no rank). All larger sizes of a matrix, the dense one among them, compete by kept
// relative energy per parameter, so that the choice is best but for the last steps. Ties: the earlier
// candidate, the smaller size. Every matrix keeps `multiple` components or stays dense; exit 2 when that
// alone is above the share.
Result<std::vector<std::optional<int64_t>>> ranks_by_budget(std::span<const RankCandidate> candidates,
                                                            double share, int64_t multiple = 16);

}  // namespace pare
