// cli/sparse_kernels.h: what runs for the sparse tensors of a model on this machine.
#pragma once

#include <map>
#include <string>

#include "engine/models/weight_source.h"

namespace pare::cli {

// "2:4 bf16: sparse kernel 2.31x of dense", by the level and the table in use; "" for tensors in other forms.
std::string sparse_kernel_text(const StoredTensor& tensor);
// How many tensors of a model each text holds for.
std::map<std::string, int64_t> sparse_kernel_counts(const WeightSource& source);

}  // namespace pare::cli
