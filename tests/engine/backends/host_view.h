// tests/engine/backends/host_view.h: a GPU's backend behind a host's face, so that the tests of operations,
// which look at their tensors, run on it as they are. Host memory must be memory that the GPU can read: it is
// on the emulator, and on hardware when tensors are pinned (Storage::set_host_memory).
#pragma once

#include <memory>

#include "engine/tensor/backend.h"

namespace pare::test {

std::unique_ptr<Backend> make_host_view(std::unique_ptr<Backend> gpu);

}  // namespace pare::test
