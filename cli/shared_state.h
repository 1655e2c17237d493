// cli/shared_state.h: what rank 0 of a training run has read from its job folder, given to all ranks, so that only
// one machine needs the folder. All functions are collective.
#pragma once

#include <string>

#include "distill/gradient_exchange.h"
#include "distill/trainer_state.h"

namespace pare::cli {

// Everybody gets the text of rank 0. Exit 5.
Status share_text(GradientExchange& exchange, std::string& text);
// Everybody gets the state of rank 0. Exit 5, 6.
Status share_state(GradientExchange& exchange, TrainerState& state);

}  // namespace pare::cli
