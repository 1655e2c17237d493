// tests/formats/tiny_model.h: small tensors and models with fixed values for the tests of formats.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/models/weight_source.h"
#include "formats/create_model.h"

namespace pare::test {

// Every bit pattern is allowed in integers; floating types get small finite values.
Tensor random_tensor(DType dtype, const Shape& shape, uint64_t seed);
// Codes, scales and the rest of a matrix in a scheme, all of them valid.
QuantizedTensor random_quantized(const QuantScheme& scheme, int64_t out, int64_t in, uint64_t seed);

bool same_bytes(const Tensor& a, const Tensor& b);
bool same_bytes(const QuantizedTensor& a, const QuantizedTensor& b);

using NamedWeights = std::vector<std::pair<std::string, WeightData>>;

// A few dense and quantized tensors, zero-size and rank 0 included.
NamedWeights tiny_weights();
// One small matrix in every sparse and low-rank form: three patterns, values and codes, every base.
NamedWeights form_weights();
CreateOptions tiny_options();
// Writes the weights; fails the test on an error.
void write_model(const std::string& path, const NamedWeights& weights, const CreateOptions& options);

std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& bytes);

}  // namespace pare::test
