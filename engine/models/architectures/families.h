// engine/models/architectures/families.h: the declarations that registry.cpp lists; one per file.
#pragma once

#include <span>

#include "engine/models/architecture.h"

namespace pare {

extern const Architecture kLlama;
extern const Architecture kMistral;
extern const Architecture kMixtral;
extern const Architecture kQwen2;
extern const Architecture kQwen3;
extern const Architecture kGpt2;
// Families that are named but refused with exit 4.
std::span<const Architecture> families_not_enabled();

}  // namespace pare
