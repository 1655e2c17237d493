// engine/tensor/low_rank_tensor.h: W = left * right (+ base): two thin factors, and optionally what they
// repair.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <variant>

#include "engine/core/result.h"
#include "engine/tensor/quantized_tensor.h"
#include "engine/tensor/sparse_tensor.h"
#include "engine/tensor/tensor.h"

namespace pare {

struct LowRankTensor {
  using Base = std::variant<std::monostate, Tensor, std::shared_ptr<const QuantizedTensor>,
                            std::shared_ptr<const SparseTensor>>;

  Shape shape;   // logical [out, in]
  Tensor left;   // f32, bf16 or f16 [out, rank]
  Tensor right;  // the same type [rank, in]
  Base base;     // [out, in], dense ones f32, bf16 or f16; none: the product is the weight

  int64_t out() const { return shape[0]; }
  int64_t in() const { return shape[1]; }
  int64_t rank() const { return left.size(1); }
  bool has_base() const { return base.index() != 0; }
  const Tensor* dense_base() const { return std::get_if<Tensor>(&base); }
  const QuantizedTensor* quantized_base() const;
  const SparseTensor* sparse_base() const;
  // The scheme of a base with codes, else null.
  const QuantScheme* scheme() const;
  uint64_t size_bytes() const;  // factors and base

  // f32 [out, in]: every weight is the float sum over rank 0, 1, ... of left * right, then the base is added.
  Result<Tensor> to_dense() const;
  // Rows [begin, end) of it into `out` [end - begin, in].
  void dense_rows(int64_t begin, int64_t end, float* out) const;
  // Structure and values of factors and base. Exit 3 (PK11, and those of the base) or 7.
  Status validate(std::string_view path, std::string_view name) const;
};

}  // namespace pare
