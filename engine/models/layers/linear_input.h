// engine/models/layers/linear_input.h: what the linears of one site read.
//
// Rows as floats, or, where every linear there rounds its input alike and the device has products of rounded
// rows (quantized_rows_backend.h), the rows rounded once. Behind a norm the norm itself writes them so. The
// results are the same bytes either way.
#pragma once

#include <span>

#include "engine/models/layers/norm.h"
#include "engine/models/weight.h"
#include "engine/tensor/ops.h"

namespace pare {

struct LinearInput {
  Tensor x;                  // f32 [tokens, channels]; undefined when the rows exist as codes only
  ops::RoundedRows rounded;  // undefined: every linear reads x
};

// The linears of a site. Undefined ones are left out.
class LinearReaders {
 public:
  LinearReaders(std::initializer_list<const Weight*> weights);

  // Whether rounded rows are all that they read.
  bool read_rounded() const { return form_ != nullptr; }
  // x as they read it: rounded when that saves rounding more than once.
  LinearInput input(const Tensor& x, Workspace& workspace) const;
  // norm(x) as they read it.
  LinearInput input(const Norm& norm, const Tensor& x, Workspace& workspace) const;
  // What input() takes from the workspace at most. Planned weights may be asked too.
  size_t input_bytes(int64_t tokens) const;
  size_t norm_input_bytes(int64_t tokens, int64_t channels) const;

 private:
  const PackedMatrix* form_ = nullptr;  // what rows are rounded for; null: they are not
  Device device_;
  int count_ = 0;
};

}  // namespace pare
