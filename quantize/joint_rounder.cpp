#include "quantize/joint_rounder.h"

#include "engine/core/parallel.h"
#include "quantize/grid_rounder.h"
#include "quantize/row_quantizer.h"

namespace pare {
namespace {

// A rounder that owns everything it refers to.
class JointRounder final : public ColumnRounder {
 public:
  JointRounder(QuantScheme scheme, const Tensor& moment, int64_t out, int64_t in, const HessianFactor& factor,
               bool clamp_scales)
      : scheme_(std::move(scheme)),
        importance_(diagonal(moment)),
        options_(options_for(scheme_, importance_, clamp_scales)),
        grids_(scheme_, options_, out, in),
        rounder_(scheme_, options_, factor, grids_, GridRounder::When::fitted, VectorLevel::avx512) {}

  Status start(const Tensor& weight) {
    parallel_ranges(weight.size(0), kLanes, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) grids_.fit_row(r, weight.data<float>() + r * weight.size(1));
    });
    return rounder_.allocate(weight.size(0), weight.size(1));
  }

  Status begin_block(const Tensor& work) override { return rounder_.begin_block(work); }
  void round(const SweepTile& tile, int64_t position, const uint8_t* keep, float* chosen) override {
    rounder_.round(tile, position, keep, chosen);
  }
  Result<QuantizedTensor> finish(std::string_view name) override { return rounder_.finish(name); }

 private:
  static std::vector<float> diagonal(const Tensor& moment) {
    std::vector<float> values;
    for (int64_t j = 0; j < moment.size(0); ++j)
      values.push_back(moment.data<float>()[j * moment.size(0) + j]);
    return values;
  }
  static QuantizeOptions options_for(const QuantScheme& scheme, const std::vector<float>& importance,
                                     bool clamp_scales) {
    QuantizeOptions options;
    options.clamp_scales = clamp_scales;
    if (scheme.bits >= 8) return options;
    options.clip_search = true;
    options.clip.power = 2.0;
    options.importance = importance;
    return options;
  }

  QuantScheme scheme_;
  std::vector<float> importance_;
  QuantizeOptions options_;
  GroupGrids grids_;
  GridRounder rounder_;
};

}  // namespace

Result<RounderFactory> joint_rounder(const QuantScheme& scheme, bool clamp_scales) {
  if (scheme.offset == QuantScheme::Offset::minimum)
    return scheme_refused(scheme, "--scheme", "pruned weights need a code for exactly zero");
  if (scheme.kind == QuantScheme::Kind::codebook)
    return scheme_refused(scheme, "--scheme", "pruning and rounding in one sweep needs an even grid");
  if (scheme.granularity == QuantScheme::Granularity::tensor)
    return scheme_refused(scheme, "--scheme",
                          "pruning and rounding in one sweep needs a scale per row or group");
  return RounderFactory([=](const Tensor& weight, const HessianFactor& factor, const Tensor& moment,
                            std::string_view) -> Result<std::unique_ptr<ColumnRounder>> {
    const int64_t out = weight.size(0), in = weight.size(1);
    auto rounder = std::make_unique<JointRounder>(scheme, moment, out, in, factor, clamp_scales);
    PARE_CHECK(rounder->start(weight));
    return std::unique_ptr<ColumnRounder>(std::move(rounder));
  });
}

}  // namespace pare
