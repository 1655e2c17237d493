// formats/gguf/tensor_data.h: bytes of a GGUF tensor -> a Tensor or a QuantizedTensor with exactly the values
// that the blocks define; internal to formats.
#pragma once

#include <memory>
#include <optional>

#include "engine/models/weight_source.h"
#include "formats/gguf/header.h"
#include "formats/gguf/names.h"

namespace pare {

// How blocks of a type appear as codes: nothing for plain types.
//   Q4_0, Q5_0        int4/5-g32-asym: a negative d turns the codes round and the zero point moves with them
//   Q8_0              int8-g32-sym-full
//   Q4_1, Q5_1        int4/5-g32-asymf
//   Q2_K              int2-g16-asymf-sf32, Q4_K, Q5_K int4/5-g32-asymf-sf32
//   Q3_K, Q6_K        int3/6-g16-asym-sf32
std::optional<QuantScheme> gguf_scheme(GgufType type);

struct GgufLoad {
  GgufChange change = GgufChange::none;
  int64_t head_dim = 0;  // of permuted tensors
};

// `bytes` stay valid as long as `owner`; plain tensors without a change are views of them. Matrices of blocks
// are decoded rows in parallel. Errors: 7 a scale that is not finite (GG36), 4 a value that codes cannot
// hold, 6.
Result<WeightData> load_gguf_tensor(const GgufTensor& tensor, std::span<const std::byte> bytes,
                                    const std::shared_ptr<const void>& owner, const GgufLoad& load,
                                    std::string_view path);

}  // namespace pare
