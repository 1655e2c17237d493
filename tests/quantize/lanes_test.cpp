#include "quantize/lanes.h"

#include <gtest/gtest.h>

#include <vector>

#include "engine/core/random.h"

namespace pare {
namespace {

std::vector<VectorLevel> levels() {
  std::vector<VectorLevel> all;
  for (const VectorLevel level : {VectorLevel::generic, VectorLevel::avx2, VectorLevel::avx512})
    if (level <= host_vector_level()) all.push_back(level);
  return all;
}

// A column of lanes is rounded as encode() and decode() round single values, ties and far outliers included.
TEST(Lanes, RoundAsSingleValues) {
  const Random random(41, RandomPurpose::test_data);
  for (const char* text :
       {"int4-g32", "int8-ch", "int2-g32", "int3-g16-asym", "int8-ch-asym", "int4-g32-asymf"}) {
    const QuantScheme scheme = QuantScheme::parse(text).value();
    const bool is_narrow = scheme.is_symmetric() && scheme.range == QuantScheme::Range::narrow;
    for (uint64_t trial = 0; trial < 200; ++trial) {
      LaneGrids grids;
      std::vector<Grid> single(kLanes);
      float values[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint64_t index = trial * kLanes + uint64_t(lane);
        const std::vector<float> ends = {random.normal(index), random.normal(index, 1)};
        single[size_t(lane)] = fit_min_max(scheme, ends).grid;
        grids.set(lane, single[size_t(lane)]);
        const Grid& grid = single[size_t(lane)];
        const float steps = float(int64_t(random.below(41, index, 2)) - 20) * 0.5f;  // whole and half steps
        values[lane] = trial % 3 == 0   ? grid.minimum + steps * grid.scale
                       : trial % 3 == 1 ? 2.0f * random.normal(index, 3)
                                        : 1e30f * random.normal(index, 3);
      }
      for (const VectorLevel level : levels()) {
        int32_t codes[kLanes];
        float restored[kLanes];
        lane_kernels(level).round_column(values, grids, is_narrow ? 1.0f : 0.0f,
                                         float(scheme.code_count() - 1), codes, restored);
        for (int lane = 0; lane < kLanes; ++lane) {
          uint8_t code = 0;
          float value = 0.0f;
          encode(scheme, single[size_t(lane)], std::span(values + lane, 1), &code);
          decode(scheme, single[size_t(lane)], std::span(&code, 1), &value);
          EXPECT_EQ(codes[lane], code) << text << " level " << int(level) << " value " << values[lane];
          EXPECT_EQ(restored[lane], value) << text << " level " << int(level) << " value " << values[lane];
        }
      }
    }
  }
}

TEST(Lanes, SubtractsProductsWithoutFusing) {
  const Random random(43, RandomPurpose::test_data);
  for (const int64_t count : {0, 1, 2, 7, 128}) {
    std::vector<float> values(size_t(count) * kLanes + 1), errors(kLanes), upper(size_t(count) + 1);
    for (size_t i = 0; i < values.size(); ++i) values[i] = random.normal(i);
    for (size_t i = 0; i < errors.size(); ++i) errors[i] = random.normal(i, 1);
    for (size_t i = 0; i < upper.size(); ++i) upper[i] = random.normal(i, 2);
    std::vector<float> expected = values;
    for (int64_t j = 0; j < count; ++j)
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const volatile float product = errors[size_t(lane)] * upper[size_t(j)];
        expected[size_t(j * kLanes + lane)] -= product;
      }
    for (const VectorLevel level : levels()) {
      std::vector<float> got = values;
      lane_subtract(level)(got.data(), errors.data(), upper.data(), count);
      EXPECT_EQ(got, expected) << int(level) << " " << count;
    }
  }
}

}  // namespace
}  // namespace pare
