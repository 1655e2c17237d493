// engine/backends/cpu/cpu_backend.h: the backend of the host: vector kernels with run-time choice of
// instruction set.
//
// Memory is host memory; work runs on the pool of engine/core/parallel.h. Every operation cuts its work by
// shape alone and treats rows independently: results are the same bytes for any number of threads and any
// batch.
#pragma once

#include <memory>

#include "engine/backends/cpu/isa.h"
#include "engine/tensor/backend.h"

namespace pare {

// A backend of one level, which must not exceed cpu::host_isa().
std::unique_ptr<Backend> make_cpu_backend(cpu::Isa level);
std::unique_ptr<Backend> make_cpu_backend();  // of cpu::best_isa()

}  // namespace pare
