// tests/support/guarded_backend.h: the CPU backend disguised as GPU 0.
//
// Its memory can be touched only while one of its operations runs, so code that reads or writes device memory
// by itself crashes, as it would on a GPU; new memory is filled with 0xff. Results are those of the CPU
// backend to the last bit, which lets a test ask for equality where a GPU's kernels are only close.
#pragma once

#include <memory>

#include "engine/tensor/backend.h"

namespace pare::test {

std::unique_ptr<Backend> make_guarded_backend(std::unique_ptr<Backend> cpu);

}  // namespace pare::test
