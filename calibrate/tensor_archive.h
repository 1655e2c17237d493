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

// Puts all parts of the tensors into one object and gives its description: {object, tensors: [{name, form,
// ..., parts: [{role, offset, bytes}]}]}. Parts begin at multiples of 64 bytes.
Result<Json> put_tensors(JobFolder& job, const std::vector<ArchivedTensor>& tensors);

// The tensors back, in their order. Exit 3 naming the job when the description does not fit the object.
Result<std::vector<ArchivedTensor>> get_tensors(const JobFolder& job, const Json& description);

}  // namespace pare
