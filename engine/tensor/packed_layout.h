// engine/tensor/packed_layout.h: where a kernel puts the codes of a quantized matrix, or what a sparse one
// keeps.
//
// A layout is a value: a name and its tile. A kernel refuses a matrix whose layout it does not know; for each
// layout unpack(pack(x)) == x.
#pragma once

#include <memory>
#include <string>

#include "engine/tensor/quantized_tensor.h"
#include "engine/tensor/sparse_tensor.h"

namespace pare {

struct PackedLayout {
  std::string name = "canonical";  // "canonical", "cpu-w4-rows16", ...
  int row_tile = 1;                // output rows that are interleaved
  int column_tile = 1;             // inputs that stand together within a tile

  bool operator==(const PackedLayout&) const = default;
};

// A quantized or sparse matrix as one kernel family wants it.
struct PackedMatrix {
  PackedLayout layout;
  QuantScheme scheme;
  std::optional<ActivationQuant> activation;  // set: the product is one of integers (integer_product.h)
  int64_t out = 0, in = 0;
  Tensor codes;    // u8, opaque: order as the layout says
  Tensor scales;   // f32, opaque order
  Tensor offsets;  // f32, opaque order: what is added per group after scaling (undefined when symmetric)
  // For layouts that are only a view ("canonical"): the tensor itself.
  std::shared_ptr<const QuantizedTensor> canonical;

  // Sparse matrices: only kept weights are in `codes`.
  std::optional<SparsityPattern> pattern;
  DType value_dtype = DType::u8;  // of kept values (f32, bf16, f16); u8: codes of `scheme`
  Tensor starts;                  // i64, opaque
  std::shared_ptr<const SparseTensor> canonical_sparse;  // like canonical

  bool defined() const { return canonical != nullptr || canonical_sparse != nullptr || codes.defined(); }
  uint64_t size_bytes() const;
};

}  // namespace pare
