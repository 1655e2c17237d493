// tests/quantize/problem.h: weights and second moments for tests of methods that need data.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "engine/core/random.h"
#include "engine/tensor/tensor.h"
#include "quantize/quantizer.h"

namespace pare::test {

inline Tensor random_weight(int64_t out, int64_t in, uint32_t stream = 1) {
  Tensor weight = Tensor::allocate(DType::f32, {out, in}).value();
  const Random random(3, RandomPurpose::test_data, stream);
  for (int64_t i = 0; i < weight.numel(); ++i)
    weight.mutable_data<float>()[i] = 0.05f * random.normal(uint64_t(i));
  return weight;
}

// X^T X / tokens of inputs that share a few factors, so that channels are correlated; channel scales differ.
inline Tensor correlated_moment(int64_t in, uint32_t stream = 1, int64_t tokens = 0) {
  if (tokens == 0) tokens = 2 * in + 16;
  const int64_t factors = in / 8 + 1;
  const Random random(4, RandomPurpose::test_data, stream);
  std::vector<double> mix(size_t(in * factors)), x(size_t(tokens * in)), moment(size_t(in * in), 0.0);
  for (size_t i = 0; i < mix.size(); ++i) mix[i] = double(random.normal(i));
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < in; ++c) {
      double value = 0.5 * double(random.normal(uint64_t(t * in + c), 1));
      for (int64_t f = 0; f < factors; ++f)
        value += mix[size_t(c * factors + f)] * double(random.normal(uint64_t(t * factors + f), 2));
      x[size_t(t * in + c)] = value * (0.3 + double(random.uniform(uint64_t(c), 3)));
    }
  Tensor result = Tensor::allocate(DType::f32, {in, in}).value();
  for (int64_t i = 0; i < in; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0.0;
      for (int64_t t = 0; t < tokens; ++t) sum += x[size_t(t * in + i)] * x[size_t(t * in + j)];
      result.mutable_data<float>()[i * in + j] = result.mutable_data<float>()[j * in + i] =
          float(sum / double(tokens));
    }
  return result;
}

inline Tensor scaled_identity(int64_t n, float factor) {
  Tensor moment = Tensor::allocate(DType::f32, {n, n}).value();
  std::memset(moment.mutable_raw(), 0, moment.size_bytes());
  for (int64_t i = 0; i < n; ++i) moment.mutable_data<float>()[i * n + i] = factor;
  return moment;
}

inline Tensor times(const Tensor& matrix, float factor) {
  Tensor result = Tensor::allocate(DType::f32, matrix.shape()).value();
  for (int64_t i = 0; i < matrix.numel(); ++i)
    result.mutable_data<float>()[i] = factor * matrix.data<float>()[i];
  return result;
}

// tr(D H D^T) for D = a - b (or a alone), in double.
inline double energy_of(const Tensor& a, const Tensor* b, const Tensor& moment, double damping = 0.0) {
  const int64_t out = a.size(0), in = a.size(1);
  double total = 0.0;
  std::vector<double> d(static_cast<size_t>(in));
  for (int64_t r = 0; r < out; ++r) {
    for (int64_t i = 0; i < in; ++i)
      d[size_t(i)] = double(a.data<float>()[r * in + i]) - (b ? double(b->data<float>()[r * in + i]) : 0.0);
    for (int64_t i = 0; i < in; ++i) {
      double sum = damping * d[size_t(i)];
      for (int64_t j = 0; j < in; ++j) sum += double(moment.data<float>()[i * in + j]) * d[size_t(j)];
      total += d[size_t(i)] * sum;
    }
  }
  return total;
}

inline bool same_bytes(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined();
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), a.size_bytes()) == 0;
}

inline bool same_matrix(const QuantizedTensor& a, const QuantizedTensor& b) {
  return a.scheme == b.scheme && same_bytes(a.codes, b.codes) && same_bytes(a.scales, b.scales) &&
         same_bytes(a.zero_points, b.zero_points) && same_bytes(a.minimums, b.minimums) &&
         same_bytes(a.group_index, b.group_index) && same_bytes(a.codebook, b.codebook);
}

// Codes of row `row`, one per byte.
inline std::vector<uint8_t> codes_of(const QuantizedTensor& tensor, int64_t row) {
  std::vector<uint8_t> codes(size_t(tensor.in()));
  unpack_codes(tensor.codes.data<uint8_t>() + row * tensor.scheme.row_bytes(tensor.in()), tensor.in(),
               tensor.scheme.bits, codes.data());
  return codes;
}

}  // namespace pare::test
