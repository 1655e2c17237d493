#include "engine/tensor/device.h"

#include <fmt/core.h>

namespace pare {

std::string Device::name() const {
  switch (kind) {
    case Kind::reference:
      return "reference";
    case Kind::cpu:
      return "cpu";
    case Kind::check:
      return "check";
    case Kind::cuda:
      return fmt::format("cuda:{}", index);
  }
  return "unknown";
}

}  // namespace pare
