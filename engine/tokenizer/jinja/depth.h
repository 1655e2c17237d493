// engine/tokenizer/jinja/depth.h: recursion of the evaluator, counted.
#pragma once

#include <fmt/core.h>

#include "engine/core/limits.h"
#include "engine/tokenizer/jinja/evaluator.h"

namespace pare::jinja {

class Evaluator::Depth {
 public:
  explicit Depth(int& depth) : depth_(&depth) { ++depth; }
  Depth(Depth&& other) noexcept : depth_(std::exchange(other.depth_, nullptr)) {}
  Depth& operator=(Depth&&) = delete;
  ~Depth() {
    if (depth_ != nullptr) --*depth_;
  }

 private:
  int* depth_;
};

}  // namespace pare::jinja
