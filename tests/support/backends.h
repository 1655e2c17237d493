// tests/support/backends.h: every way this host can compute: the reference and each level of the cpu backend.
#pragma once

#include <string>
#include <vector>

#include "engine/tensor/backend.h"

namespace pare::test {

struct Arithmetic {
  std::string name;  // "reference", "cpu-avx2"
  Device device;
  int level = 0;  // of the cpu backend
};
std::vector<Arithmetic> arithmetics_of_this_host();
// Installs the backend and returns its device.
Device use(const Arithmetic& arithmetic);

// For test names: letters, digits and underscores only.
std::string test_name(std::string text);

}  // namespace pare::test
