#include <algorithm>
#include <array>

#include "engine/backends/check/backend_class.h"
#include "engine/tensor/tolerance.h"

namespace pare::check {
namespace {

// Largest key norm and largest |value| of one key-value head.
struct HeadExtent {
  double key_norm = 0.0, value = 0.0;
};

HeadExtent extent_of(const AttentionArgs& a, int64_t s, int64_t kv_head) {
  HeadExtent extent;
  const int64_t offset = s * a.kv_sequence_stride + kv_head * a.kv_head_stride;
  const int64_t grid = (s * a.kv_heads + kv_head) * a.grid_head_stride;
  std::array<std::array<float, size_t{kKvHeadDim}>, 2> decoded;
  for (int64_t j = 0; j < a.key_tokens; ++j) {
    const int64_t at = offset + j * a.kv_position_stride;
    const float* key = static_cast<const float*>(a.k) + at;
    const float* value = static_cast<const float*>(a.v) + at;
    if (!a.kv.is_none()) {
      kv_decode(a.kv, static_cast<const uint8_t*>(a.k) + at, a.k_scales[grid + j],
                a.k_zeros != nullptr ? a.k_zeros[grid + j] : uint8_t{0}, a.head_dim, decoded[0].data());
      kv_decode(a.kv, static_cast<const uint8_t*>(a.v) + at, a.v_scales[grid + j],
                a.v_zeros != nullptr ? a.v_zeros[grid + j] : uint8_t{0}, a.head_dim, decoded[1].data());
      key = decoded[0].data();
      value = decoded[1].data();
    }
    double squares = 0.0;
    for (int64_t d = 0; d < a.head_dim; ++d) {
      squares += double(key[d]) * double(key[d]);
      extent.value = std::max(extent.value, std::abs(double(value[d])));
    }
    extent.key_norm = std::max(extent.key_norm, std::sqrt(squares));
  }
  return extent;
}

}  // namespace

void CheckBackend::attention(const AttentionArgs& a) {
  const int64_t columns = a.heads * a.head_dim;
  Matrix want(a.sequences * a.query_tokens, columns);
  AttentionArgs oracle = a;
  oracle.out = want.data();
  oracle.out_stride = columns;
  oracle_.attention(oracle);
  tested_.attention(a);

  std::vector<HeadExtent> extents;
  for (int64_t s = 0; s < a.sequences; ++s) {
    for (int64_t h = 0; h < a.kv_heads; ++h) extents.push_back(extent_of(a, s, h));
  }
  const double roundoff = tested_.operand_roundoff();
  std::vector<double> bounds;  // per row and head: every component of a head has the same one
  for (int64_t row = 0; row < want.rows; ++row) {
    for (int64_t h = 0; h < a.heads; ++h) {
      const int64_t kv_head = h / (a.heads / a.kv_heads);
      const HeadExtent& extent = extents[size_t(row / a.query_tokens * a.kv_heads + kv_head)];
      const Matrix query =
          Matrix::copy_of(a.q + row * a.q_stride + h * a.head_dim, 1, a.head_dim, a.head_dim);
      double score_error = tolerance::dot(a.head_dim, query.row_norm(0), extent.key_norm, roundoff) *
                           std::abs(double(a.scale));
      if (a.softcap > 0.0f) score_error += tolerance::softcap(double(a.softcap));
      // The mean of values under probabilities that are each off by this much; their mean distance from the
      // largest score is at most the logarithm of their number.
      const double distance = std::log(double(a.key_tokens));
      bounds.push_back(extent.value * (tolerance::softmax(a.key_tokens, 1.0, distance, score_error) +
                                       tolerance::rounded_mean(roundoff)));
    }
  }
  compare(subject("attention", a.kv.is_none() ? "f32" : std::string(a.kv.name()) + " keys and values"), a.out,
          a.out_stride, want,
          [&](int64_t row, int64_t c) { return bounds[size_t(row * a.heads + c / a.head_dim)]; });
}

}  // namespace pare::check
