// engine/backends/check/check_backend.h: runs two backends and compares every result.
//
// The caller gets the results of the tested backend; the oracle works on copies. A difference beyond the
// bound of engine/tensor/tolerance.h is a bug of ours: an assertion that names operation, backend, dtype,
// shape, the worst coordinate and both values. Unlike other backends this one allocates inside operations.
#pragma once

#include <memory>

#include "engine/tensor/backend.h"

namespace pare {

struct CheckOptions {
  double slack = 1.0;  // factor on every bound
};

// Device::check(). Both backends work on host memory and outlive the result.
std::unique_ptr<Backend> make_check_backend(Backend& tested, Backend& oracle,
                                            const CheckOptions& options = {});

}  // namespace pare
