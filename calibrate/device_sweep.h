// calibrate/device_sweep.h: sweep_columns() where the second moment lies: on a GPU, with the rules that its
// kernels know (engine/tensor/column_solver.h). The codes of a block of columns are those of the host; what
// is carried into later blocks is summed in another order.
#pragma once

#include <functional>
#include <vector>

#include "calibrate/hessian.h"
#include "engine/core/result.h"
#include "engine/tensor/column_solver.h"
#include "engine/tensor/mask.h"
#include "engine/tensor/tensor.h"

namespace pare {

// Null where the host's own code does it.
ColumnSolver* column_solver(Device device);

// Grids of a matrix on a device: f32 [out, groups] each, u8 faults, i32 clipped.
struct DeviceGrids {
  int64_t width = 0;
  GridFormat format{};
  Tensor scales, zeros, minimums, faults, clipped;

  static Result<DeviceGrids> allocate(Device device, const GridFormat& format, int64_t out, int64_t in,
                                      int64_t width);
  GridArrays arrays() const;
};

struct DeviceSweepRule {
  int64_t block = kSweepColumns;  // at most that
  // Rounding of what is kept; null: kept weights keep their values.
  const DeviceGrids* grids = nullptr;
  bool fit_ahead = false;
  RangeSearch search{};  // of fit_ahead; importance on the device
  // By position, u8 [out, in] on the device: what may be kept. Undefined: everything. Overwritten by the
  // choice.
  Tensor keep;
  // The choice; none without.
  int n = 0, m = 0;  // n of m, in natural order
  std::function<int64_t(int64_t begin, int64_t end)>
      removed;  // of these columns; of each row if `is_per_row`
  bool is_per_row = false;
};

// All on the device of the factor and in the columns' natural order.
struct DeviceSweepOutput {
  Tensor values;  // f32 [out, in]
  Tensor codes;   // u8 [out, in], with grids
  Tensor keep;    // u8 [out, in], with a choice
  double loss = 0.0;
};

// weight f32 [out, in] and factor.upper on one device that has a column_solver(). Exit 6.
Result<DeviceSweepOutput> sweep_on_device(const Tensor& weight, const HessianFactor& factor,
                                          const DeviceSweepRule& rule);

// x[r, order[i]] (gather) or its inverse, u8 or 4-byte elements; order i32 [columns] on the device.
Result<Tensor> with_columns(const Tensor& x, const Tensor& order, bool is_scatter);

// Sums of the rows' errors of b as a.
struct MatrixErrors {
  double squared = 0.0, size = 0.0, largest = 0.0;
};
Result<MatrixErrors> device_errors(const Tensor& a, const Tensor& b);
// sum over rows of d H d^T, d = a - b (b may be undefined), all on one device. Exit 6.
Result<double> device_energy(const Tensor& a, const Tensor& b, const Tensor& moment);

// What a mask keeps, u8 [out, in] by position of the factor. Exit 6.
Result<Tensor> device_marks(const Mask& mask, const HessianFactor& factor, Device device);

// i32 [n] on a device.
Result<Tensor> device_order(const std::vector<int32_t>& order, Device device);
// A tensor of a device without its zeros; contents undefined. Exit 6.
Result<Tensor> device_tensor(DType dtype, const Shape& shape, Device device);

}  // namespace pare
