// distill/trainer_state.h: everything that a training run needs to go on with the same bytes: named tensors
// and a JSON object. Random numbers have no state (engine/core/random.h).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/core/job_folder.h"
#include "engine/core/json.h"
#include "engine/tensor/tensor.h"

namespace pare {

struct NamedTensor {
  std::string name;
  Tensor tensor;  // contiguous, in host memory; f32, or u8 for masks
};

struct TrainerState {
  Json json = Json::object();
  std::vector<NamedTensor> tensors;

  // Exit 3 when it is missing or has another type or shape.
  Result<Tensor> tensor(std::string_view name, DType dtype, const Shape& shape) const;
  Result<int64_t> integer(std::string_view key) const;  // exit 3
  Result<double> real(std::string_view key) const;      // exit 3
};

// The state as one object of a job folder; `description` is for the position of the commit:
// {object, json, tensors: [{name, dtype, shape, offset, bytes}]}. Exit 5, 6.
struct StoredTrainerState {
  Hash128 object;
  Json description;
};
Result<StoredTrainerState> put_state(JobFolder& job, const TrainerState& state);
// Views of the mapped object. Exit 3 naming the job when the description does not fit it.
Result<TrainerState> get_state(const JobFolder& job, const Json& description);

}  // namespace pare
