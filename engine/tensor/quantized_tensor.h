// engine/tensor/quantized_tensor.h: a matrix as codes in one canonical order.
#pragma once

#include <optional>

#include "engine/tensor/activation_quant.h"
#include "engine/tensor/quant_scheme.h"
#include "engine/tensor/tensor.h"

namespace pare {

struct QuantizedTensor {
  QuantScheme scheme;
  Shape shape;    // logical, [out, in]
  Tensor codes;   // u8 [out, row_bytes]: row-major, in-contiguous, low bits first inside bytes
  Tensor scales;  // scale_dtype [out, groups]; tensor granularity: [1, 1]; > 0, or < 0 with Offset::minimum
  Tensor zero_points;  // u8 [out, groups], only for Offset::zero_point
  Tensor minimums;     // scale_dtype [out, groups], only for Offset::minimum
  Tensor group_index;  // optional i32 [in]: group of each column (act-order without static groups)
  Tensor codebook;     // optional f32 [2^bits], only for codebook "custom"
  // How the input of this linear is rounded; none: it stays float. Part of the product, not of dequantize().
  std::optional<ActivationQuant> activation;

  int64_t out() const { return shape[0]; }
  int64_t in() const { return shape[1]; }
  uint64_t size_bytes() const;

  // New tensor with storage for `scheme`, all codes and scales zero; exit 6.
  static Result<QuantizedTensor> allocate(const QuantScheme& scheme, int64_t out, int64_t in);

  // Structure and values: shapes and dtypes (3), scales finite and positive (7), zero points and codes in
  // range (3).
  Status validate(std::string_view path, std::string_view name) const;
  // The same without the codes: for forms that keep them in another order.
  Status validate_grid(std::string_view path, std::string_view name) const;

  // The definition of the stored matrix: f32 [out, in]. Computed in float: scale * float(code - zero_point).
  Result<Tensor> dequantize() const;
  // Rows [begin, end) into `out` [end - begin, in].
  void dequantize_rows(int64_t begin, int64_t end, float* out) const;
  // Columns [begin, end) of one row into `out` [end - begin]; begin is a multiple of 8. For callers without a
  // whole row of scratch memory.
  void dequantize_slice(int64_t row, int64_t begin, int64_t end, float* out) const;
};

// Codes of one row, between bytes and the packed form (low bits first). `count` codes of `bits` bits.
void pack_codes(const uint8_t* codes, int64_t count, int bits, uint8_t* packed);
void unpack_codes(const uint8_t* packed, int64_t count, int bits, uint8_t* codes);

}  // namespace pare
