// cli/sparse_choice.h: what --sparse of `pare export` makes of each tensor.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/models/architecture.h"
#include "engine/models/weight_source.h"
#include "engine/tensor/sparse_tensor.h"

namespace pare::cli {

class SparseChoice {
 public:
  // "": as stored; "off": with zeros; "auto" or a pattern: without them where that is smaller. Exit 2.
  static Result<SparseChoice> parse(const std::string& text);

  // The weight in the form asked for; counts those that became sparse. Exit 4 for codes without a zero and
  // "off".
  Result<WeightData> apply(WeightData data, const TensorSpec& spec);

  bool wanted() const { return wanted_; }
  int64_t count() const { return count_; }

 private:
  Result<WeightData> expanded(WeightData data, const TensorSpec& spec) const;
  WeightData found(WeightData data, std::optional<SparseTensor> sparse);

  bool wanted_ = false, expands_ = false;
  std::optional<SparsityPattern> pattern_;
  int64_t count_ = 0;
};

}  // namespace pare::cli
