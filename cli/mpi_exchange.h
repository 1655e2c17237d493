// cli/mpi_exchange.h: gradients of processes that mpirun started; only in builds with MPI.
#pragma once

#include <memory>

#include "distill/gradient_exchange.h"

namespace pare::cli {

// MPI must be initialized. Collective. Sums are made piece by piece, 2 MiB at a time: of every piece each
// rank gets its share from all others, adds it up in the order of ranks, and gives the result to everybody;
// so each value crosses the network twice, whatever the number of ranks. Beside the values it takes two
// pieces.
std::unique_ptr<GradientExchange> mpi_exchange();

}  // namespace pare::cli
