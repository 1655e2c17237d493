// engine/tensor/quantized_rows_backend.h: rows that several linears read, rounded to codes once
// (integer_product.h), by themselves or inside the norm that makes them.
//
// The rules of backend.h hold here too. "rows" is opaque memory of the device, 64-byte aligned, of
// rows_bytes(): what m rows rounded for `weight` take. Everything gives the bytes that Backend's own norm and
// packed_matmul give one after the other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/tensor/backend.h"

namespace pare {

struct RoundRowsArgs {
  const float* x;  // [m, weight->in]
  int64_t m, x_stride;
  const PackedMatrix* weight;
  void* rows;
};

// norm.out may be null: nobody reads the floats.
struct RmsNormRowsArgs {
  RmsNormArgs norm;
  const PackedMatrix* weight;
  void* rows;
};
struct LayerNormRowsArgs {
  LayerNormArgs norm;
  const PackedMatrix* weight;
  void* rows;
};

// out[m, n] (+)= rows * weight^T + bias
struct RoundedMatmulArgs {
  void* rows;  // only read
  const PackedMatrix* weight;
  const float* bias;  // [n] or null
  float* out;         // [m, n]
  int64_t m, out_stride;
  bool accumulate;
};

class QuantizedRowsBackend {
 public:
  virtual ~QuantizedRowsBackend() = default;

  // Whether a product of rounded rows with this matrix exists. Of a matrix that is only planned (scheme,
  // rounding and sizes, no codes): whether it will.
  virtual bool reads_rounded(const PackedMatrix& weight) const = 0;
  // Whether rows that were rounded for one of them serve the other.
  virtual bool rounds_alike(const PackedMatrix& a, const PackedMatrix& b) const = 0;
  virtual size_t rows_bytes(const PackedMatrix& weight, int64_t m) const = 0;

  virtual void round_rows(const RoundRowsArgs&) = 0;
  virtual void rms_norm_rows(const RmsNormRowsArgs&) = 0;
  virtual void layer_norm_rows(const LayerNormRowsArgs&) = 0;
  virtual void matmul(const RoundedMatmulArgs&) = 0;
};

}  // namespace pare
