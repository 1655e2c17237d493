// distill/gradient_exchange.h: processes that train one model on parts of the same data. Every function is
// collective: all ranks call it in the same order with the same sizes, and get the same bytes.
#pragma once

#include <memory>
#include <span>

#include "engine/core/result.h"

namespace pare {

class GradientExchange {
 public:
  virtual ~GradientExchange() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  bool is_first() const { return rank() == 0; }

  // In place: values[i] = ((rank 0 + rank 1) + rank 2) + ..., always in this order. Exit 5 when a process is
  // gone.
  virtual Status sum(std::span<float> values) = 0;
  virtual Status sum(std::span<double> values) = 0;
  // In place: everybody gets the values of `root`.
  virtual Status broadcast(std::span<float> values, int root) = 0;
};

// A group of one: everything is there already.
std::unique_ptr<GradientExchange> single_process();

}  // namespace pare
