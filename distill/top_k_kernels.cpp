// One set of functions per level: the same source, compiled for its vectors.
#include "distill/top_k_kernels.h"

#include <limits>

#include "engine/core/assert.h"

namespace pare {
namespace {

#define PARE_INLINE inline __attribute__((always_inline))

// Vectors of `width` values, which may lie anywhere.
#define PARE_WIDTH(width)                                                                 \
  struct Width##width {                                                                   \
    static constexpr int kWidth = width;                                                  \
    typedef float Vector __attribute__((vector_size(4 * width), aligned(4), may_alias));  \
    typedef int32_t Whole __attribute__((vector_size(4 * width), aligned(4), may_alias)); \
  };
PARE_WIDTH(4)
PARE_WIDTH(8)
PARE_WIDTH(16)
#undef PARE_WIDTH

template <typename Width>
struct Lanes {
  using Vector = typename Width::Vector;
  using Whole = typename Width::Whole;
  static constexpr int kWidth = Width::kWidth;
  static constexpr int kParts = int(kTopKLanes) / kWidth;

  static PARE_INLINE bool any(const Whole& mask) {
    int32_t bits = 0;
    for (int i = 0; i < kWidth; ++i) bits |= mask[i];
    return bits != 0;
  }

  static PARE_INLINE bool group_maxima(const float* values, int64_t rows, float* maxima) {
    constexpr float kLargest = std::numeric_limits<float>::max();
    Vector best[size_t{kParts}];
    Whole bad[size_t{kParts}];
    for (int part = 0; part < kParts; ++part) {
      best[part] = Vector{} - std::numeric_limits<float>::infinity();
      bad[part] = Whole{};
    }
    for (int64_t row = 0; row < rows; ++row) {
      const Vector* x = reinterpret_cast<const Vector*>(values + row * kTopKLanes);
      for (int part = 0; part < kParts; ++part) {
        best[part] = best[part] < x[part] ? x[part] : best[part];
        bad[part] |= ~Whole(x[part] <= Vector{} + kLargest);
      }
    }
    Whole all_bad{};
    for (int part = 0; part < kParts; ++part) {
      reinterpret_cast<Vector*>(maxima)[part] = best[part];
      all_bad |= bad[part];
    }
    return !any(all_bad);
  }

  static PARE_INLINE int64_t at_least(const float* values, int64_t rows, float threshold,
                                      int32_t* positions) {
    constexpr int64_t kRows = 4;  // looked at together
    int64_t count = 0;
    for (int64_t row = 0; row < rows; row += kRows) {
      const int64_t end = rows < row + kRows ? rows : row + kRows;
      Whole hits{};
      for (int64_t r = row; r < end; ++r) {
        const Vector* x = reinterpret_cast<const Vector*>(values + r * kTopKLanes);
        for (int part = 0; part < kParts; ++part) hits |= Whole(x[part] >= Vector{} + threshold);
      }
      if (!any(hits)) continue;
      for (int64_t i = row * kTopKLanes; i < end * kTopKLanes; ++i)
        if (values[i] >= threshold) positions[count++] = int32_t(i);
    }
    return count;
  }

  // exp(x) of x <= 0, by 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]. Source: Moshier, Cephes, expf.
  static PARE_INLINE void exponential(Vector& x) {
    constexpr float kLog2E = 1.44269504f, kHigh = 0.693359375f, kLow = -2.12194440e-4f;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves whole numbers in the low bits
    constexpr int32_t kRoundBits = 0x4b400000;
    const Vector least = Vector{} - 87.0f;
    x = x > least ? x : least;
    const Vector shifted = x * kLog2E + kRound;
    const Vector n = shifted - kRound;
    const Vector r = x - n * kHigh - n * kLow;
    Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    x = Vector(Whole(p) + ((Whole(shifted) - kRoundBits) << 23));
  }

  static PARE_INLINE double exp_sum_below(const float* values, int64_t rows, float largest, float bound,
                                          float factor) {
    constexpr int64_t kRows = 64;  // added up in float before they join the sum in double
    double total = 0.0;
    for (int64_t row = 0; row < rows; row += kRows) {
      const int64_t end = rows < row + kRows ? rows : row + kRows;
      Vector sums[size_t{kParts}];
      for (int part = 0; part < kParts; ++part) sums[part] = Vector{};
      for (int64_t r = row; r < end; ++r) {
        const Vector* x = reinterpret_cast<const Vector*>(values + r * kTopKLanes);
        for (int part = 0; part < kParts; ++part) {
          Vector e = (x[part] - largest) * factor;
          exponential(e);
          sums[part] += Vector(Whole(e) & Whole(x[part] < Vector{} + bound));
        }
      }
      for (int part = 0; part < kParts; ++part)
        for (int i = 0; i < kWidth; ++i) total += double(sums[part][i]);
    }
    return total;
  }
};

#define PARE_TOP_K(name, width, attributes)                                                             \
  attributes bool maxima_##name(const float* values, int64_t rows, float* maxima) {                     \
    return Lanes<Width##width>::group_maxima(values, rows, maxima);                                     \
  }                                                                                                     \
  attributes int64_t at_least_##name(const float* values, int64_t rows, float threshold, int32_t* at) { \
    return Lanes<Width##width>::at_least(values, rows, threshold, at);                                  \
  }                                                                                                     \
  attributes double exp_sum_##name(const float* values, int64_t rows, float largest, float bound,       \
                                   float factor) {                                                      \
    return Lanes<Width##width>::exp_sum_below(values, rows, largest, bound, factor);                    \
  }                                                                                                     \
  constexpr TopKKernels k_##name{maxima_##name, at_least_##name, exp_sum_##name};

PARE_TOP_K(generic, 4, )
#if defined(__x86_64__)
PARE_TOP_K(avx2, 8, __attribute__((target("avx2"))))
PARE_TOP_K(avx512, 16, __attribute__((target("avx512f,avx512vl"))))
#endif
#undef PARE_TOP_K

}  // namespace

const TopKKernels& top_k_kernels(VectorLevel level) {
#if defined(__x86_64__)
  if (level == VectorLevel::avx512) return k_avx512;
  if (level == VectorLevel::avx2) return k_avx2;
#endif
  PARE_ASSERT(level == VectorLevel::generic, "[top_k] level {} on this machine", int(level));
  return k_generic;
}

}  // namespace pare
