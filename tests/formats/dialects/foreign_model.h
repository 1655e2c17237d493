// tests/formats/dialects/foreign_model.h: models as other tools store them, packed bit by bit from the
// definition in docs/interop.md, independent of the code under test.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/models/weight_source.h"
#include "tests/support/memory_source.h"

namespace pare::test {

// Codes of a matrix [out, in], unsigned, with scale and zero point of each group.
struct Codes {
  std::string module;
  int64_t out = 0, in = 0, groups = 1;
  int bits = 4;
  std::vector<int> code{};          // [out, in]
  std::vector<float> scale{};       // [out, groups], exact in f16 and bf16
  std::vector<int> zero_point{};    // [out, groups]
  std::vector<int32_t> group_of{};  // [in]

  float weight(int64_t row, int64_t column) const;
};

struct CodesSpec {
  int bits = 4;
  int64_t group_size = 0;  // 0: one group per row
  bool symmetric = true;
  int lowest_zero_point = 0;
  bool act_order = false;
};

Codes random_codes(const std::string& module, int64_t out, int64_t in, const CodesSpec& spec, uint64_t seed);

// One bit string per row, elements from the least significant bit on, words of 32 bits. `padded`:
// floor(32/bits) elements per word and nothing across words.
std::vector<uint32_t> pack_bits(const std::vector<int>& values, int bits, bool padded);

Tensor words_tensor(const std::vector<uint32_t>& words, const Shape& shape);
Tensor scale_tensor(const std::vector<float>& values, const Shape& shape, DType dtype);
Tensor byte_tensor(const std::vector<int>& values, const Shape& shape);
Tensor index_tensor(const std::vector<int32_t>& values);

// A llama of one block, 64 wide, whose linears `put` stores; the rest is dense. Returns the codes in
// `linears`.
std::shared_ptr<MemorySource> foreign_llama(const std::string& quantization_config, const CodesSpec& spec,
                                            std::vector<Codes>& linears,
                                            const std::function<void(MemorySource&, const Codes&)>& put);
std::string llama_config(const std::string& quantization_config);

void put_gptq(MemorySource& source, const Codes& codes, bool is_v1);
void put_awq(MemorySource& source, const Codes& codes);
void put_packed(MemorySource& source, const Codes& codes, bool symmetric, bool padded);
void put_plain(MemorySource& source, const Codes& codes, bool symmetric);

// "" when every linear of the source has exactly the values of its codes.
std::string compare(const WeightSource& source, const std::vector<Codes>& linears);

// quantization_config of compressed-tensors with one group.
std::string compressed_config(const std::string& format, const std::string& weights,
                              const std::string& inputs = "null", const std::string& more = "");

}  // namespace pare::test
