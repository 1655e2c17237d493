// engine/backends/cuda/training_loss_known.h: loss_rows against a teacher of which k ids are known.
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/tensor/training_backend.h"

namespace pare::cuda {

void loss_rows_of_known_ids(Context& context, const LossRowsArgs& a);

}  // namespace pare::cuda
