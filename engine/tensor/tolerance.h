// engine/tensor/tolerance.h: how far a backend may be from the reference. The bounds of docs/numerics.md, one
// function per kind of operation; the check backend and the tests use these and nothing else.
//
// All bounds are on |result - exact result|, for operations carried out in float with rounding to nearest.
#pragma once

#include <cstdint>

#include "engine/tensor/backend.h"
#include "engine/tensor/quantized_tensor.h"

namespace pare::tolerance {

inline constexpr double kUnitRoundoff = 0x1p-24;  // half the distance from 1 to the next float
// Results below this may be flushed to zero: exp() of vector kernels ends near the smallest normal number.
inline constexpr double kUnderflow = 1e-35;

// Error of a float sum of `count` terms in any order, as a share of the sum of magnitudes. Rigorous up to 64
// terms (count * u); beyond that the probabilistic bound 8 sqrt(count) u, which fails with probability below
// 1e-13. Source: Higham and Mary, "A new approach to probabilistic rounding error analysis" (2019),
// theorem 2.4.
double sum_error(int64_t count);

// Dot product of length k of vectors with these Euclidean norms (Cauchy-Schwarz bounds the sum of
// magnitudes). roundoff: Backend::operand_roundoff(), how far either factor may have been rounded before.
double dot(int64_t k, double norm_x, double norm_w, double roundoff = 0.0);

// Relative error of exp(-distance) when distance >= 0 was computed in float.
double exponential(double distance);

double activation(Activation kind, double x);
double softcap(double cap);
double rms_norm(int64_t channels, double out);
// `normal` is (x - mean) / deviation; `largest` the largest |x| of the row.
double layer_norm(int64_t channels, double normal, double largest, double deviation, double gain,
                  double bias);
// `distance` below the largest score of the row; `score_error` of each score.
double softmax(int64_t columns, double probability, double distance, double score_error);
double log_sum_exp(int64_t columns);
// `largest` of the gradient; `terms`: |scale| times the norms of dout and v times the largest |q| or |k|, the
// size of the two sums whose difference the gradient of a score is. A bound of what is seen, as a share of
// the largest: Cauchy-Schwarz over all queries would allow a thousand times more.
// `roundoff` of the operands of products (Backend::operand_roundoff) and, by it, `score_error` of the scores.
double attention_gradient(int64_t head_dim, int64_t keys, double largest, double terms, double roundoff = 0.0,
                          double score_error = 0.0);
// What rounding the operands of the second product adds to the bound of attention, as a share of the largest
// |value|: probabilities and values are each off by `roundoff`.
double rounded_mean(double roundoff);
// |scale * weight| + |previous out|, each with one rounding too many
double embedding(double magnitude);

// Euclidean norm of a row of the largest magnitudes that a kernel may meet while it multiplies codes before
// it subtracts zero points: scale * (2^bits - 1) + |minimum| for integers, scale * |largest value| otherwise.
double quantized_row_norm(const QuantizedTensor& weight, int64_t row);

}  // namespace pare::tolerance
