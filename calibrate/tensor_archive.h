// calibrate/tensor_archive.h: the changed tensors of one block as one object of a job folder.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/job_folder.h"
#include "engine/core/json.h"
#include "engine/models/weight_source.h"

namespace pare {

struct ArchivedTensor {
  std::string name;
  WeightData data;
};

// Puts all parts of the tensors, whatever their form, into one object and gives its description: {object,
// tensors: [{name, form, shape, pattern, scheme, activation, parts: [{role, dtype, shape, offset, bytes}],
// base: {form, ...}, transposed}]}, each with what its form has. Parts begin at multiples of 64 bytes.
Result<Json> put_tensors(JobFolder& job, const std::vector<ArchivedTensor>& tensors);

// The tensors back, in their order, validated. Exit 3 naming the job when the description does not fit the
// object, 3 or 7 when the parts are no tensor of that form.
Result<std::vector<ArchivedTensor>> get_tensors(const JobFolder& job, const Json& description);

}  // namespace pare
