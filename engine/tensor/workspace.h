// engine/tensor/workspace.h: scratch memory of the caller. Reserved once, handed out and taken back like a
// stack, so that no op allocates and peak memory is known beforehand.
#pragma once

#include <cstddef>

#include "engine/core/result.h"
#include "engine/tensor/tensor.h"

namespace pare {

class Workspace {
 public:
  static Result<Workspace> reserve(size_t bytes, Device device);

  // Uninitialised tensor of the next aligned bytes; asserts that the reservation suffices.
  Tensor take(DType dtype, const Shape& shape);
  static size_t bytes_for(DType dtype, const Shape& shape);  // what take() will use, alignment included

  size_t capacity() const { return storage_ ? storage_->size_bytes() : 0; }
  size_t used() const { return used_; }
  size_t peak() const { return peak_; }
  Device device() const { return device_; }

  // Gives back everything taken since it was made.
  class Scope {
   public:
    explicit Scope(Workspace& workspace) : workspace_(workspace), mark_(workspace.used_) {}
    ~Scope() { workspace_.used_ = mark_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    size_t mark_;
  };

 private:
  std::shared_ptr<Storage> storage_;
  Device device_;
  size_t used_ = 0, peak_ = 0;
};

}  // namespace pare
