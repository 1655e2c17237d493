// formats/dialects/parts.h: the stored tensors of one quantized module, found and checked; internal to
// formats.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "engine/models/weight_source.h"

namespace pare {

class ModuleParts {
 public:
  // The source outlives the object.
  ModuleParts(const WeightSource& stored, std::string module);

  const std::string& module() const { return module_; }
  std::string name_of(std::string_view part) const { return module_ + "." + std::string(part); }
  const StoredTensor* find(std::string_view part) const;

  // The part, which must be there (QC06, exit 3) with one of the dtypes and shapes (QC02, exit 3).
  Result<const StoredTensor*> need(std::string_view part, std::initializer_list<DType> dtypes,
                                   std::initializer_list<Shape> shapes);
  // The same for one that may be absent: nullptr.
  Result<const StoredTensor*> may(std::string_view part, std::initializer_list<DType> dtypes,
                                  std::initializer_list<Shape> shapes);
  // Counts the part as one of the module without looking at it.
  void take(std::string_view part);

  const std::vector<std::string>& names() const { return names_; }  // of the parts asked for and found
  uint64_t bytes() const { return bytes_; }

 private:
  const WeightSource& stored_;
  std::string module_;
  std::vector<std::string> names_;
  uint64_t bytes_ = 0;
};

// A dense tensor of the source, contiguous.
Result<Tensor> load_part(const WeightSource& stored, const std::string& name);

// A new tensor [columns, rows] of 1-, 2- or 4-byte elements.
Result<Tensor> transposed_copy(const Tensor& matrix);

// QC04: NaN or infinity (exit 7) or a negative scale (exit 4) in [out, groups]; zero is allowed here.
Status check_scales(const Tensor& scales, std::string_view path, std::string_view name);

// Group of each column as stored (i32 [in]), checked (QC03): every entry in [0, groups), and no group without
// a column unless `is_act_order`. Undefined when it says no more than column / group_size.
Result<Tensor> group_index_of(const Tensor& stored, int64_t groups, int64_t group_size, bool is_act_order,
                              std::string_view path, std::string_view name);

// Other tools store a zero scale for a group of zeros, canonical scales are positive: such a group gets the
// smallest scale there is and codes that stand for 0.0, so that no value changes. Then everything is
// validated once more.
Result<QuantizedTensor> finished_tensor(QuantizedTensor tensor, std::string_view path, std::string_view name);

}  // namespace pare
