#include "evaluate/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"

namespace pare {
namespace {

// Values per piece of work. Sums of pieces are added in their order, so the grain is part of the result.
constexpr int64_t kGrain = int64_t(1) << 16;

std::span<const float> values_of(const Tensor& x) {
  PARE_ASSERT(x.dtype() == DType::f32 && x.is_contiguous(), "[histogram] {} {}", dtype_name(x.dtype()),
              x.shape().text());
  return {x.data<float>(), size_t(x.numel())};
}

// Calls body(piece, values of it) for all pieces, in parallel.
template <typename Body>
void for_pieces(std::span<const float> values, const Body& body) {
  const int64_t count = (int64_t(values.size()) + kGrain - 1) / kGrain;
  parallel_for(count, [&](int64_t piece) {
    const size_t begin = size_t(piece * kGrain);
    body(size_t(piece), values.subspan(begin, std::min(size_t(kGrain), values.size() - begin)));
  });
}

uint64_t sum_of(const std::vector<uint64_t>& counts) {
  uint64_t sum = 0;
  for (const uint64_t count : counts) sum += count;
  return sum;
}

}  // namespace

double MagnitudeHistogram::edge(int bin) {
  return std::ldexp(1.0 + 0.25 * double(bin % 4), kLowestExponent + bin / 4);
}

uint64_t MagnitudeHistogram::total() const {
  return sum_of(counts) + below + above;
}

void MagnitudeHistogram::add(const Tensor& x) {
  counts.resize(kBins);
  const std::span<const float> values = values_of(x);
  std::vector<MagnitudeHistogram> pieces((values.size() + kGrain - 1) / kGrain);
  for_pieces(values, [&](size_t index, std::span<const float> piece) {
    MagnitudeHistogram& out = pieces[index];
    out.counts.resize(kBins);
    // Exponent and the two leading bits of the mantissa of a float name its quarter octave.
    constexpr int kFirst = (127 + kLowestExponent) * 4;
    float largest_value = 0.0f;
    for (const float value : piece) {
      const float magnitude = std::fabs(value);
      const int bin = int(std::bit_cast<uint32_t>(magnitude) >> 21) - kFirst;
      if (bin < 0) {
        ++out.below;
        out.zeros += magnitude == 0.0f ? 1 : 0;
      } else if (bin >= kBins) {
        ++out.above;
      } else {
        ++out.counts[size_t(bin)];
      }
      largest_value = std::max(largest_value, magnitude);
      out.square_sum += double(value) * double(value);
    }
    out.largest = double(largest_value);
  });
  for (const MagnitudeHistogram& piece : pieces) {
    for (size_t i = 0; i < counts.size(); ++i) counts[i] += piece.counts[i];
    below += piece.below;
    above += piece.above;
    zeros += piece.zeros;
    largest = std::max(largest, piece.largest);
    square_sum += piece.square_sum;
  }
}

uint64_t ValueHistogram::total() const {
  return sum_of(counts);
}

ValueHistogram value_histogram(const Tensor& x, double limit) {
  ValueHistogram histogram;
  histogram.limit = limit;
  histogram.counts.resize(ValueHistogram::kBins);
  histogram.largest = largest_magnitude(x);
  const std::span<const float> values = values_of(x);
  std::vector<ValueHistogram> pieces((values.size() + kGrain - 1) / kGrain);
  const double scale = limit > 0.0 ? double(ValueHistogram::kBins) / (2.0 * limit) : 0.0;
  for_pieces(values, [&](size_t index, std::span<const float> piece) {
    ValueHistogram& out = pieces[index];
    out.counts.resize(ValueHistogram::kBins);
    for (const float value : piece) {
      const double place = std::floor((double(value) + limit) * scale);
      const int bin = int(std::clamp(place, 0.0, double(ValueHistogram::kBins - 1)));
      ++out.counts[size_t(bin)];
      out.outside += std::fabs(double(value)) > limit ? 1 : 0;
    }
  });
  for (const ValueHistogram& piece : pieces) {
    for (size_t i = 0; i < histogram.counts.size(); ++i) histogram.counts[i] += piece.counts[i];
    histogram.outside += piece.outside;
  }
  return histogram;
}

double largest_magnitude(const Tensor& x) {
  const std::span<const float> values = values_of(x);
  std::vector<float> pieces((values.size() + kGrain - 1) / kGrain);
  for_pieces(values, [&](size_t index, std::span<const float> piece) {
    for (const float value : piece) pieces[index] = std::max(pieces[index], std::fabs(value));
  });
  float largest = 0.0f;
  for (const float piece : pieces) largest = std::max(largest, piece);
  return double(largest);
}

}  // namespace pare
