// engine/backends/reference/reference_backend.h: the definition of every operation: scalar code, sums in
// double, rounded to float once at the end. Slow on purpose; every other backend is tested against it.
#pragma once

#include <memory>

#include "engine/tensor/backend.h"
#include "engine/tensor/decode_backend.h"

namespace pare {

std::unique_ptr<Backend> make_reference_backend();  // Device::reference()
// Fused decode steps over memory of the host. No backend of a host offers it: for comparisons.
std::unique_ptr<DecodeBackend> make_reference_decode();

}  // namespace pare
