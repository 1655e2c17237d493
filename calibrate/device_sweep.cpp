#include "calibrate/device_sweep.h"

#include <algorithm>

#include "engine/core/parallel.h"
#include "engine/tensor/statistics_backend.h"
#include "engine/tensor/transfer.h"

namespace pare {

ColumnSolver* column_solver(Device device) {
  StatisticsBackend* statistics = backend_for(device).statistics();
  return statistics == nullptr ? nullptr : statistics->columns();
}

Result<Tensor> device_tensor(DType dtype, const Shape& shape, Device device) {
  const size_t bytes = size_t((shape.numel() * dtype_bits(dtype) + 7) / 8);
  PARE_TRY(std::shared_ptr<Storage> storage, backend_for(device).allocate(bytes));
  return Tensor(std::move(storage), 0, dtype, shape);
}

Result<Tensor> device_order(const std::vector<int32_t>& order, Device device) {
  // Read only.
  const Tensor host = Tensor::wrap(const_cast<int32_t*>(order.data()), DType::i32, {int64_t(order.size())});
  return moved(host, device);
}

Result<Tensor> device_marks(const Mask& mask, const HessianFactor& factor, Device device) {
  const int64_t out = mask.out(), in = mask.in();
  PARE_TRY(const Tensor marks, Tensor::allocate(DType::u8, {out, in}));
  uint8_t* target = marks.mutable_data<uint8_t>();
  parallel_ranges(out, 16, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      for (int64_t i = 0; i < in; ++i) target[row * in + i] = mask.kept(row, factor.order[size_t(i)]) ? 1 : 0;
  });
  return moved(marks, device);
}

Result<DeviceGrids> DeviceGrids::allocate(Device device, const GridFormat& format, int64_t out, int64_t in,
                                          int64_t width) {
  DeviceGrids grids;
  grids.width = width;
  grids.format = format;
  const Shape shape{out, (in + width - 1) / width};
  for (Tensor* tensor : {&grids.scales, &grids.zeros, &grids.minimums}) {
    PARE_TRY(*tensor, device_tensor(DType::f32, shape, device));
  }
  PARE_TRY(grids.faults, device_tensor(DType::u8, shape, device));
  PARE_TRY(grids.clipped, device_tensor(DType::i32, shape, device));
  return grids;
}

GridArrays DeviceGrids::arrays() const {
  return {.scales = scales.mutable_data<float>(),
          .zeros = zeros.mutable_data<float>(),
          .minimums = minimums.mutable_data<float>(),
          .faults = faults.mutable_data<uint8_t>(),
          .clipped = clipped.mutable_data<int32_t>()};
}

Result<Tensor> with_columns(const Tensor& x, const Tensor& order, bool is_scatter) {
  PARE_TRY(Tensor out, device_tensor(x.dtype(), x.shape(), x.device()));
  column_solver(x.device())
      ->permute_columns({.x = x.raw(),
                         .out = out.mutable_raw(),
                         .order = order.data<int32_t>(),
                         .rows = x.size(0),
                         .columns = x.size(1),
                         .element_bytes = dtype_bytes(x.dtype()),
                         .is_scatter = is_scatter});
  return out;
}

Result<DeviceSweepOutput> sweep_on_device(const Tensor& weight, const HessianFactor& factor,
                                          const DeviceSweepRule& rule) {
  const Device device = factor.upper.device();
  ColumnSolver* solver = column_solver(device);
  PARE_ASSERT(solver != nullptr && weight.device() == device && weight.is_contiguous(),
              "[device_sweep] weight on {}, factor on {}", weight.device().name(), device.name());
  PARE_ASSERT(!factor.failed && !factor.all_dead, "[device_sweep] no factor on {}", device.name());
  const int64_t out = weight.size(0), in = weight.size(1), block = std::min(rule.block, kSweepColumns);
  const bool is_natural = std::is_sorted(factor.order.begin(), factor.order.end());
  const bool has_choice = rule.m > 0 || rule.removed;
  PARE_TRY(const Tensor order, device_order(factor.order, device));
  PARE_TRY(Tensor work, with_columns(weight, order, /*is_scatter=*/false));
  PARE_TRY(const Tensor errors, device_tensor(DType::f32, {out, kSweepColumns}, device));
  PARE_TRY(const Tensor loss, Tensor::allocate(DType::f64, {out}, device));
  Tensor codes, keep = rule.keep, choice_workspace;
  if (rule.grids != nullptr) {
    PARE_TRY(codes, device_tensor(DType::u8, {out, in}, device));
  }
  const bool may_keep_all = has_choice && !keep.defined();
  if (may_keep_all) {
    PARE_TRY(keep, device_tensor(DType::u8, {out, in}, device));
  }
  if (rule.removed) {
    PARE_TRY(choice_workspace,
             device_tensor(DType::u8, {int64_t(solver->choose_kept_workspace_bytes(out))}, device));
  }
  for (int64_t begin = 0; begin < in; begin += block) {
    const int64_t end = std::min(in, begin + block);
    ChooseKeptArgs choice{.work = work.data<float>(),
                          .upper = factor.upper.data<float>(),
                          .keep = keep.defined() ? keep.mutable_data<uint8_t>() : nullptr,
                          .rows = out,
                          .columns = in,
                          .begin = begin,
                          .end = end,
                          .removed = 0,
                          .is_per_row = rule.is_per_row,
                          .workspace = nullptr};
    if (may_keep_all) solver->choose_kept(choice);  // none is removed: all marks are set
    if (rule.removed) {
      choice.removed = rule.removed(begin, end);
      choice.workspace = choice_workspace.mutable_raw();
      solver->choose_kept(choice);
    }
    SweepBlockArgs sweep{.work = work.mutable_data<float>(),
                         .upper = factor.upper.data<float>(),
                         .order = order.data<int32_t>(),
                         .errors = errors.mutable_data<float>(),
                         .loss = loss.mutable_data<double>(),
                         .rows = out,
                         .columns = in,
                         .begin = begin,
                         .end = end,
                         .keep = keep.defined() ? keep.mutable_data<uint8_t>() : nullptr,
                         .n = rule.n,
                         .m = rule.m,
                         .codes = nullptr,
                         .format = {},
                         .grids = {},
                         .width = in,
                         .fit_ahead = rule.fit_ahead,
                         .search = rule.search};
    if (rule.grids != nullptr) {
      sweep.codes = codes.mutable_data<uint8_t>();
      sweep.format = rule.grids->format;
      sweep.grids = rule.grids->arrays();
      sweep.width = rule.grids->width;
    }
    solver->sweep_block(sweep);
    if (end < in)
      solver->update_rest({.work = work.mutable_data<float>(),
                           .upper = factor.upper.data<float>(),
                           .errors = errors.data<float>(),
                           .rows = out,
                           .columns = in,
                           .begin = begin,
                           .end = end});
  }
  DeviceSweepOutput output;
  const auto in_natural_order = [&](Tensor tensor) -> Result<Tensor> {
    if (!tensor.defined() || is_natural) return tensor;
    return with_columns(tensor, order, /*is_scatter=*/true);
  };
  PARE_TRY(output.values, in_natural_order(std::move(work)));
  PARE_TRY(output.codes, in_natural_order(std::move(codes)));
  if (has_choice) {
    PARE_TRY(output.keep, in_natural_order(std::move(keep)));
  }
  PARE_TRY(const Tensor losses, moved(loss, Device::cpu()));
  double total = 0.0;
  for (int64_t row = 0; row < out; ++row) total += losses.data<double>()[row];
  output.loss = 0.5 * total;
  return output;
}

Result<MatrixErrors> device_errors(const Tensor& a, const Tensor& b) {
  const Device device = a.device();
  const int64_t rows = a.size(0);
  PARE_TRY(const Tensor sums, device_tensor(DType::f64, {rows, 3}, device));
  column_solver(device)->row_errors({.a = a.data<float>(),
                                     .b = b.data<float>(),
                                     .sums = sums.mutable_data<double>(),
                                     .rows = rows,
                                     .columns = a.size(1)});
  PARE_TRY(const Tensor found, moved(sums, Device::cpu()));
  MatrixErrors total;
  for (int64_t row = 0; row < rows; ++row) {
    const double* errors = found.data<double>() + row * 3;
    total.squared += errors[0];
    total.size += errors[1];
    total.largest = std::max(total.largest, errors[2]);
  }
  return total;
}

Result<double> device_energy(const Tensor& a, const Tensor& b, const Tensor& moment) {
  const Device device = moment.device();
  ColumnSolver* solver = column_solver(device);
  const int64_t rows = a.size(0), columns = a.size(1);
  PARE_ASSERT(a.device() == device && moment.size(0) == columns && moment.size(1) == columns,
              "[device_sweep] moment {} for {} inputs", moment.shape().text(), columns);
  PARE_TRY(const Tensor sums, device_tensor(DType::f64, {rows}, device));
  PARE_TRY(const Tensor workspace,
           device_tensor(DType::u8, {int64_t(solver->output_energy_workspace_bytes(rows, columns))}, device));
  solver->output_energy({.a = a.data<float>(),
                         .b = b.defined() ? b.data<float>() : nullptr,
                         .moment = moment.data<float>(),
                         .sums = sums.mutable_data<double>(),
                         .rows = rows,
                         .columns = columns,
                         .workspace = workspace.mutable_raw()});
  PARE_TRY(const Tensor found, moved(sums, Device::cpu()));
  double total = 0.0;
  for (int64_t row = 0; row < rows; ++row) total += found.data<double>()[row];
  return std::max(total, 0.0);
}

}  // namespace pare
