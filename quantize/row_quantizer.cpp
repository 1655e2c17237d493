#include "quantize/row_quantizer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "quantize/matrix_codes.h"

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

class RowQuantizer {
 public:
  RowQuantizer(const Tensor& weight, const QuantScheme& scheme, const QuantizeOptions& options,
               const RowMethod& method, QuantizedTensor& out)
      : weight_(weight), scheme_(scheme), options_(options), method_(method), out_(out) {}

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
      const FittedGrid fitted =
          method_.tensor_grid ? *method_.tensor_grid : method_.fit(group, importance_of(first, count));
      note_fault(fitted, r, g, tally);
      round(fitted.grid, group, codes.data() + first, restored.data() + first);
      if (options_.clip_search) tally.clipped_weights += count_clipped(scheme_, fitted.grid, group);
      if (!method_.tensor_grid) store_grid(out_, r * groups + g, fitted.grid);
    }
    store_codes(out_, r, codes.data());
  }

  std::span<const float> importance_of(int64_t first, int64_t count) const {
    if (options_.importance.empty()) return {};
    return options_.importance.subspan(size_t(first), size_t(count));
  }

  void round(const Grid& grid, std::span<const float> group, uint8_t* codes, float* restored) const {
    if (method_.codebook.empty()) {
      encode(scheme_, grid, group, codes);
      decode(scheme_, grid, std::span(codes, group.size()), restored);
      return;
    }
    for (size_t i = 0; i < group.size(); ++i) {
      codes[i] = nearest_in(method_.codebook, group[i] / grid.scale);
      restored[i] = grid.scale * method_.codebook[codes[i]];
    }
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

  const Tensor& weight_;
  const QuantScheme& scheme_;
  const QuantizeOptions& options_;
  const RowMethod& method_;
  QuantizedTensor& out_;
};

}  // namespace

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

Error scheme_refused(const QuantScheme& scheme, std::string_view name, std::string what) {
  return Error{.exit = Exit::unsupported,
               .rule = "RC14",
               .path = {},
               .where = quote(name),
               .what = std::move(what),
               .got = scheme.text(),
               .limit = {}};
}

uint8_t nearest_in(std::span<const float> codebook, float ratio) {
  size_t low = 0, high = codebook.size() - 1;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (ratio > (codebook[middle] + codebook[middle + 1]) * 0.5f) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return uint8_t(low);
}

Result<QuantizeOutput> quantize_rows(const Tensor& weight, const QuantScheme& scheme,
                                     const QuantizeOptions& options, std::string_view name,
                                     const RowMethod& method) {
  const int64_t out = weight.size(0), in = weight.size(1);
  QuantizeOutput output;
  PARE_TRY(output.tensor, QuantizedTensor::allocate(scheme, out, in));
  if (!method.codebook.empty())
    std::copy(method.codebook.begin(), method.codebook.end(), output.tensor.codebook.mutable_data<float>());
  if (weight.numel() == 0) return output;
  const RowQuantizer rows(weight, scheme, options, method, output.tensor);
  const int64_t items = (out + kRowsPerItem - 1) / kRowsPerItem;
  std::vector<Tally> tallies(static_cast<size_t>(items));
  parallel_for(items, [&](int64_t item) {
    tallies[size_t(item)] = rows.run(item * kRowsPerItem, std::min(out, (item + 1) * kRowsPerItem));
  });
  if (method.tensor_grid) store_grid(output.tensor, 0, method.tensor_grid->grid);

  double squared_error = 0.0, squared_weight = 0.0;
  for (const Tally& tally : tallies) {
    if (tally.fault_row >= 0 && !options.clamp_scales) {
      return scale_error(scheme, name, tally.fault_row, tally.fault_group, tally.fault);
    }
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
