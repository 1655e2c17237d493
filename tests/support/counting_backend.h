// tests/support/counting_backend.h: a backend that hands everything on, counts what concerns rounded rows,
// and can hide that products of rounded rows exist.
#pragma once

#include <memory>

#include "engine/tensor/backend.h"

namespace pare::test {

struct RowCounts {
  int64_t norms = 0;                                               // rms_norm and layer_norm
  int64_t packed_products = 0;                                     // that round for themselves
  int64_t rounded_norms = 0, roundings = 0, rounded_products = 0;  // of QuantizedRowsBackend
  bool operator==(const RowCounts&) const = default;
};

// `counts` outlives the backend.
std::unique_ptr<Backend> make_counting_backend(std::unique_ptr<Backend> inner, bool has_rounded_rows,
                                               RowCounts& counts);

}  // namespace pare::test
