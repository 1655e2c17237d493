// cli/shared_text.h: a text that rank 0 of a training run has read, given to all ranks.
#pragma once

#include <string>

#include "distill/gradient_exchange.h"

namespace pare::cli {

// Everybody gets the text of rank 0. Collective. Exit 5.
Status share_text(GradientExchange& exchange, std::string& text);

}  // namespace pare::cli
