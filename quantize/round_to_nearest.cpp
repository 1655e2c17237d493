#include "quantize/round_to_nearest.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/tensor_scan.h"

namespace pare {
namespace {

constexpr int64_t kRowsPerItem = 16;

// What one item of rows adds to the report; combined in item order.
struct Tally {
  double squared_error = 0.0, squared_weight = 0.0, max_error = 0.0;
  int64_t clamped_scales = 0, raised_scales = 0, clipped_weights = 0;
  int64_t fault_row = -1, fault_group = -1;
  ScaleFault fault = ScaleFault::none;
};

void load_row(const Tensor& weight, int64_t row, float* out) {
  const int64_t in = weight.size(1), offset = row * weight.row_stride();
  switch (weight.dtype()) {
    case DType::f32:
      std::memcpy(out, weight.data<float>() + offset, size_t(in) * sizeof(float));
      return;
    case DType::bf16: {
      const uint16_t* source = weight.data<uint16_t>() + offset;
      for (int64_t i = 0; i < in; ++i) out[i] = bf16_to_float(source[i]);
      return;
    }
    case DType::f16: {
      const uint16_t* source = weight.data<uint16_t>() + offset;
      for (int64_t i = 0; i < in; ++i) out[i] = f16_to_float(source[i]);
      return;
    }
    default:
      PARE_ASSERT(false, "[rtn] {} is not a weight type here", dtype_name(weight.dtype()));
  }
}

void store_scale(Tensor& target, int64_t index, float value) {
  switch (target.dtype()) {
    case DType::f16:
      target.mutable_data<uint16_t>()[index] = float_to_f16(value);
      return;
    case DType::bf16:
      target.mutable_data<uint16_t>()[index] = float_to_bf16(value);
      return;
    default:
      target.mutable_data<float>()[index] = value;
      return;
  }
}

class RowQuantizer {
 public:
  RowQuantizer(const Tensor& weight, const QuantScheme& scheme, const QuantizeOptions& options,
               QuantizedTensor& out, const FittedGrid* tensor_grid)
      : weight_(weight), scheme_(scheme), options_(options), out_(out), tensor_grid_(tensor_grid) {}

  Tally run(int64_t begin, int64_t end) const {
    const int64_t in = weight_.size(1);
    std::vector<float> row(static_cast<size_t>(in)), restored(static_cast<size_t>(in));
    std::vector<uint8_t> codes(static_cast<size_t>(in));
    Tally tally;
    for (int64_t r = begin; r < end; ++r) {
      load_row(weight_, r, row.data());
      quantize_row(r, row, codes, restored, tally);
      for (size_t i = 0; i < row.size(); ++i) {
        const double error = double(row[i]) - double(restored[i]);
        tally.squared_error += error * error;
        tally.squared_weight += double(row[i]) * double(row[i]);
        tally.max_error = std::max(tally.max_error, std::abs(error));
      }
    }
    return tally;
  }

 private:
  void quantize_row(int64_t r, const std::vector<float>& row, std::vector<uint8_t>& codes,
                    std::vector<float>& restored, Tally& tally) const {
    const int64_t in = weight_.size(1), width = scheme_.group_width(in), groups = scheme_.groups(in);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * width, count = std::min(width, in - first);
      const std::span<const float> group(row.data() + first, size_t(count));
      const FittedGrid fitted = tensor_grid_ != nullptr ? *tensor_grid_ : fit(group);
      note_fault(fitted, r, g, tally);
      encode(scheme_, fitted.grid, group, codes.data() + first);
      decode(scheme_, fitted.grid, std::span(codes.data() + first, size_t(count)), restored.data() + first);
      if (options_.clip_search) tally.clipped_weights += clipped(fitted.grid, group);
      if (tensor_grid_ == nullptr) store_grid(fitted.grid, r * groups + g);
    }
    const int64_t row_bytes = scheme_.row_bytes(in);
    pack_codes(codes.data(), in, scheme_.bits, out_.codes.mutable_data<uint8_t>() + r * row_bytes);
  }

  FittedGrid fit(std::span<const float> group) const {
    return options_.clip_search ? fit_clipped(scheme_, group, options_.clip) : fit_min_max(scheme_, group);
  }

  // Weights more than half a step outside the values that codes reach.
  int64_t clipped(const Grid& grid, std::span<const float> group) const {
    if (scheme_.kind != QuantScheme::Kind::integer) return 0;
    const std::array<uint8_t, 2> ends = {0, uint8_t(scheme_.code_count() - 1)};
    std::array<float, 2> values;
    decode(scheme_, grid, ends, values.data());
    const float half = grid.scale * 0.5f;
    return std::count_if(group.begin(), group.end(),
                         [&](float v) { return v < values[0] - half || v > values[1] + half; });
  }

  static void note_fault(const FittedGrid& fitted, int64_t row, int64_t group, Tally& tally) {
    if (fitted.fault == ScaleFault::none) return;
    if (fitted.fault == ScaleFault::raised) {
      ++tally.raised_scales;
      return;
    }
    ++tally.clamped_scales;
    if (tally.fault_row < 0) {
      tally.fault_row = row;
      tally.fault_group = group;
      tally.fault = fitted.fault;
    }
  }

  void store_grid(const Grid& grid, int64_t index) const {
    store_scale(out_.scales, index, grid.scale);
    if (scheme_.offset == QuantScheme::Offset::zero_point) {
      out_.zero_points.mutable_data<uint8_t>()[index] = uint8_t(grid.zero_point);
    } else if (scheme_.offset == QuantScheme::Offset::minimum) {
      store_scale(out_.minimums, index, grid.minimum);
    }
  }

  const Tensor& weight_;
  const QuantScheme& scheme_;
  const QuantizeOptions& options_;
  QuantizedTensor& out_;
  const FittedGrid* tensor_grid_;
};

// One grid for the whole matrix, from the smallest and largest weight.
FittedGrid fit_tensor(const Tensor& weight, const QuantScheme& scheme) {
  const int64_t out = weight.size(0), in = weight.size(1), items = (out + kRowsPerItem - 1) / kRowsPerItem;
  std::vector<float> lows(static_cast<size_t>(items)), highs(static_cast<size_t>(items));
  parallel_for(items, [&](int64_t item) {
    std::vector<float> row(static_cast<size_t>(in));
    float low = std::numeric_limits<float>::infinity(), high = -low;
    for (int64_t r = item * kRowsPerItem; r < std::min(out, (item + 1) * kRowsPerItem); ++r) {
      load_row(weight, r, row.data());
      const auto [lowest, highest] = std::minmax_element(row.begin(), row.end());
      low = std::min(low, *lowest);
      high = std::max(high, *highest);
    }
    lows[size_t(item)] = low;
    highs[size_t(item)] = high;
  });
  return fit_range(scheme, *std::min_element(lows.begin(), lows.end()),
                   *std::max_element(highs.begin(), highs.end()));
}

Error scale_error(const Tally& tally, const QuantScheme& scheme, std::string_view name) {
  const bool is_small = tally.fault == ScaleFault::too_small;
  return Error{
      .exit = Exit::numeric,
      .rule = "NU17",
      .path = {},
      .where = quote(name) + " row " + std::to_string(tally.fault_row) + " group " +
               std::to_string(tally.fault_group),
      .what = std::string(is_small ? "scale too small for its type" : "scale too large for its type") +
              "; --clamp clamps and counts, a scheme ending in -sf32 stores wider scales",
      .got = {},
      .limit = std::string(dtype_name(scheme.scale_dtype))};
}

// What this method cannot do with a scheme; never done in another way.
Status check_scheme(const QuantScheme& scheme, const QuantizeOptions& options, std::string_view name) {
  const char* what = nullptr;
  if (scheme.kind == QuantScheme::Kind::codebook && scheme.codebook != "nf4")
    what = "a codebook of its own is not available in this version; nf4 has a fixed one";
  if (scheme.granularity == QuantScheme::Granularity::tensor && options.clip_search)
    what = "range search needs a scale per channel or group; leave out --clip for this scheme";
  if (what == nullptr) return {};
  return Error{.exit = Exit::unsupported,
               .rule = "RC14",
               .path = {},
               .where = quote(name),
               .what = what,
               .got = scheme.text(),
               .limit = {}};
}

}  // namespace

Result<QuantizeOutput> round_to_nearest(const Tensor& weight, const QuantScheme& scheme,
                                        const QuantizeOptions& options, std::string_view name) {
  PARE_ASSERT(weight.shape().rank() == 2, "[rtn] {} has shape {}", name, weight.shape().text());
  PARE_CHECK(check_scheme(scheme, options, name));
  const int64_t out = weight.size(0), in = weight.size(1);
  QuantizeOutput output;
  PARE_TRY(output.tensor, QuantizedTensor::allocate(scheme, out, in));
  if (weight.numel() == 0) return output;
  PARE_CHECK(require_finite(weight, std::string(name), {}));

  const bool is_per_tensor = scheme.granularity == QuantScheme::Granularity::tensor;
  FittedGrid tensor_grid;
  if (is_per_tensor) tensor_grid = fit_tensor(weight, scheme);
  const RowQuantizer rows(weight, scheme, options, output.tensor, is_per_tensor ? &tensor_grid : nullptr);
  const int64_t items = (out + kRowsPerItem - 1) / kRowsPerItem;
  std::vector<Tally> tallies(static_cast<size_t>(items));
  parallel_for(items, [&](int64_t item) {
    tallies[size_t(item)] = rows.run(item * kRowsPerItem, std::min(out, (item + 1) * kRowsPerItem));
  });
  if (is_per_tensor) {
    store_scale(output.tensor.scales, 0, tensor_grid.grid.scale);
    if (scheme.offset == QuantScheme::Offset::zero_point) {
      output.tensor.zero_points.mutable_data<uint8_t>()[0] = uint8_t(tensor_grid.grid.zero_point);
    } else if (scheme.offset == QuantScheme::Offset::minimum) {
      store_scale(output.tensor.minimums, 0, tensor_grid.grid.minimum);
    }
  }

  double squared_error = 0.0, squared_weight = 0.0;
  for (const Tally& tally : tallies) {
    if (tally.fault_row >= 0 && !options.clamp_scales) return scale_error(tally, scheme, name);
    squared_error += tally.squared_error;
    squared_weight += tally.squared_weight;
    output.max_error = std::max(output.max_error, tally.max_error);
    output.clamped_scales += tally.clamped_scales;
    output.raised_scales += tally.raised_scales;
    output.clipped_weights += tally.clipped_weights;
  }
  output.relative_error = squared_weight > 0.0 ? std::sqrt(squared_error / squared_weight) : 0.0;
  return output;
}

}  // namespace pare
