// quantize/codebook.h: codes for the values that a matrix has: weighted one-dimensional k-means on weights
// divided by the largest magnitude of their group. Data free; importances of columns are used when given.
#pragma once

#include <span>
#include <vector>

#include "quantize/quantizer.h"

namespace pare {

// Values in [-1, 1] (a little beyond, since scales are rounded) with their weights, as 65536 equal bins: what
// a round of k-means costs does not depend on the size of the matrix. A bin keeps the sums, so its mean is
// exact.
class ValueHistogram {
 public:
  static constexpr int kBins = 65536;
  ValueHistogram();
  void add(float value, double weight);
  void merge(const ValueHistogram& other);
  double weight(int bin) const { return sums_[size_t(bin)].weight; }
  double mean(int bin) const { return sums_[size_t(bin)].product / sums_[size_t(bin)].weight; }

 private:
  struct Sum {
    double weight = 0.0, product = 0.0;
  };
  std::vector<Sum> sums_;
};

struct KMeansOptions {
  int rounds = 50;
  bool exact_zero = false;  // one of the values is 0
};

// `count` values, rising, that make sum weight (value - nearest)^2 small. Starts at quantiles; a value nobody
// takes moves to where the error is largest; stops when the codes repeat. With no more distinct values than
// `count` each is hit exactly.
std::vector<float> fit_codebook(const ValueHistogram& histogram, int count,
                                const KMeansOptions& options = {});
// The objective: sum weight (mean - nearest)^2 over bins.
double codebook_error(const ValueHistogram& histogram, std::span<const float> codebook);

// scheme: codebook "custom" of 2 to 8 bits; exit 4 (RC14) for others and for a range search. One table for
// the matrix, fitted to the squared error of the weights: value w of a group with scale s counts as
// (importance) s^2 at w / s. When the matrix has been pruned (a group of zeros, or one weight in a thousand)
// one value is exactly 0.
Result<QuantizeOutput> k_means(const Tensor& weight, const QuantScheme& scheme,
                               const QuantizeOptions& options, std::string_view name);

}  // namespace pare
