#include "distill/input_rounding.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/integer_product.h"

namespace pare {
namespace {

constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: rounds what is added to it to a whole number
constexpr float kSmallestScale = 1e-8f;
constexpr int64_t kRowsPerItem = 8;

// The ends of a row's range with 0 in it, by comparing bits: a loop that compilers turn into vectors.
struct Ends {
  float low = 0.0f, high = 0.0f;
  bool is_finite = true;
};

Ends ends_of(const float* x, int64_t count) {
  int32_t least = 0, largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t bits = std::bit_cast<int32_t>(x[i]);
    const int32_t key = bits ^ ((bits >> 31) & 0x7fffffff);  // in the order of the numbers
    least = key < least ? key : least;
    largest = key > largest ? key : largest;
  }
  constexpr int32_t kInfinity = 0x7f800000;
  if (largest >= kInfinity || ~least >= kInfinity) return {.is_finite = false};
  return {.low = std::bit_cast<float>(least < 0 ? least ^ 0x7fffffff : 0),
          .high = std::bit_cast<float>(largest)};
}

// Codes less the zero point, and what they stand for.
struct RowGrid {
  float scale, low, high;

  float nearest(float quotient) const { return (std::clamp(quotient, low, high) + kMagic) - kMagic; }
};

RowGrid row_grid(const ActivationQuant& activation, const RoundedRow& row) {
  return {row.scale, float(activation.lowest_code() - row.zero_point),
          float(activation.highest_code() - row.zero_point)};
}

void check_rows(const Tensor& x, const Tensor& y) {
  PARE_ASSERT(
      x.device().is_host() && x.dtype() == DType::f32 && y.dtype() == DType::f32 && x.shape() == y.shape(),
      "[input_rounding] {} and {} on {}", x.shape().text(), y.shape().text(), x.device().name());
}

int64_t rows_of(const Tensor& x) {
  return x.numel() == 0 ? 0 : x.numel() / x.size(-1);
}

// The step's share of the gradient of one row, lane by lane; dx is put right in place.
double row_backward(const RowGrid& grid, const float* x, float* dx, int64_t count) {
  constexpr int64_t kLanes = 8;
  std::array<double, size_t{kLanes}> sums{};
  const auto add = [&](int64_t i, int64_t lane) {
    const float quotient = x[i] / grid.scale;
    const float nearest = (std::clamp(quotient, grid.low - 1.0f, grid.high + 1.0f) + kMagic) - kMagic;
    const bool is_below = nearest<grid.low, is_above = nearest> grid.high;
    const float inside = is_below ? grid.low : nearest - quotient;
    sums[size_t(lane)] += double(dx[i]) * double(is_above ? grid.high : inside);
    const float kept = is_below ? 0.0f : dx[i];
    dx[i] = is_above ? 0.0f : kept;
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) add(i + lane, lane);
  for (; i < count; ++i) add(i, i % kLanes);
  double sum = 0.0;
  for (const double part : sums) sum += part;
  return sum;
}

}  // namespace

Result<InputRounding> InputRounding::make(const std::string& name, const ActivationQuant& activation,
                                          int64_t in) {
  PARE_ASSERT(in >= 0, "[input_rounding] {} columns", in);
  PARE_CHECK(activation.validate({}, quote(name)));
  InputRounding rounding;
  rounding.name_ = name;
  rounding.activation_ = activation;
  if (activation.mode != ActivationQuant::Mode::static_tensor) return rounding;
  PARE_TRY(Tensor value, Tensor::allocate(DType::f32, {1, 1}));
  value.mutable_data<float>()[0] = std::max(activation.scale, kSmallestScale);
  PARE_TRY(rounding.step_, Parameter::make(name + ":input_scale", Parameter::Kind::step, std::move(value)));
  return rounding;
}

Status InputRounding::keep_positive() {
  if (step_ == nullptr) return {};
  float& scale = step_->value.mutable_data<float>()[0];
  if (!std::isfinite(scale)) {
    return Error{
        .exit = Exit::numeric, .where = quote(name_), .what = "the step of the inputs is not finite"};
  }
  scale = std::max(scale, kSmallestScale);
  return {};
}

ActivationQuant InputRounding::current() const {
  ActivationQuant activation = activation_;
  if (step_ != nullptr) activation.scale = step_->value.data<float>()[0];
  return activation;
}

void InputRounding::forward(const Tensor& x, Tensor& out) const {
  check_rows(x, out);
  const ActivationQuant activation = current();
  const int64_t in = x.size(-1);
  parallel_ranges(rows_of(x), kRowsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = x.data<float>() + t * x.row_stride();
      float* target = out.mutable_data<float>() + t * out.row_stride();
      const Ends ends = ends_of(row, in);
      if (!ends.is_finite) {
        std::fill_n(target, in, std::numeric_limits<float>::quiet_NaN());
        continue;
      }
      const RowGrid grid = row_grid(activation, activation_grid(activation, ends.low, ends.high));
      for (int64_t i = 0; i < in; ++i) target[i] = grid.scale * grid.nearest(row[i] / grid.scale);
    }
  });
}

void InputRounding::backward(const Tensor& x, Tensor& dx) const {
  check_rows(x, dx);
  const int64_t tokens = rows_of(x), in = x.size(-1);
  if (step_ == nullptr || tokens == 0) return;
  const ActivationQuant activation = current();
  const RowGrid grid = row_grid(activation, {.scale = activation.scale, .zero_point = activation.zero_point});
  constexpr int64_t kPieces = 256;  // of tokens, by their number alone: sums have one order
  const int64_t width = (tokens + kPieces - 1) / kPieces;
  std::array<double, size_t{kPieces}> sums{};
  parallel_ranges(tokens, width, [&](int64_t begin, int64_t end) {
    double& sum = sums[size_t(begin / width)];
    for (int64_t t = begin; t < end; ++t)
      sum += row_backward(grid, x.data<float>() + t * x.row_stride(),
                          dx.mutable_data<float>() + t * dx.row_stride(), in);
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  const double share = 1.0 / std::sqrt(double(in) * double(activation.highest_code()));
  float& gradient = step_->gradient.mutable_data<float>()[0];
  gradient = float(double(gradient) + share * total);
}

}  // namespace pare
