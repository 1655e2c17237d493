#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/core/random.h"
#include "quantize/grid.h"
#include "quantize/grid_error.h"

namespace pare {
namespace {

QuantScheme scheme(const char* text) {
  return QuantScheme::parse(text).value();
}

struct Group {
  std::vector<float> values, importance;
};

// Normal weights with an outlier, and importances over two orders of magnitude.
Group random_group(size_t count, uint32_t stream) {
  const Random random(21, RandomPurpose::test_data, stream);
  Group group;
  for (size_t i = 0; i < count; ++i) {
    group.values.push_back(random.normal(i));
    group.importance.push_back(std::exp(1.5f * random.normal(i, 1)));
  }
  group.values[stream % count] *= 5.0f;
  return group;
}

double weighted_error(const QuantScheme& s, const Grid& grid, const Group& group, double power) {
  std::vector<uint8_t> codes(group.values.size());
  std::vector<float> back(group.values.size());
  encode(s, grid, group.values, codes.data());
  decode(s, grid, codes, back.data());
  double sum = 0.0;
  for (size_t i = 0; i < back.size(); ++i)
    sum += double(group.importance[i]) * std::pow(std::abs(double(back[i]) - double(group.values[i])), power);
  return sum;
}

// The definition: every range, through codes; the widest wins ties.
FittedGrid by_codes(const QuantScheme& s, const Group& group, const ClipSearch& search, double& best) {
  const auto [low, high] = std::minmax_element(group.values.begin(), group.values.end());
  best = std::numeric_limits<double>::infinity();
  FittedGrid found;
  for (int step = 0; step < search.steps; ++step) {
    const float factor = float(1.0 - double(step) / search.grid);
    const FittedGrid candidate = fit_range(s, factor * *low, factor * *high);
    const double error = weighted_error(s, candidate.grid, group, search.power);
    if (error < best) best = error, found = candidate;
  }
  return found;
}

class Search : public testing::TestWithParam<const char*> {};

TEST_P(Search, IsTheBestOfAllRangesAndNeverWorseThanMinMax) {
  const QuantScheme s = scheme(GetParam());
  for (const double power : {2.0, 2.4})
    for (const size_t count : {size_t(32), size_t(77), size_t(300)})
      for (uint32_t stream = 0; stream < 8; ++stream) {
        const Group group = random_group(count, stream);
        const ClipSearch search{.power = power};
        double best = 0.0;
        const FittedGrid expected = by_codes(s, group, search, best);
        const FittedGrid found = fit_clipped(s, group.values, search, group.importance);
        const double error = weighted_error(s, found.grid, group, power);
        EXPECT_LE(error, weighted_error(s, fit_min_max(s, group.values).grid, group, power) * (1.0 + 1e-5));
        // Another grid only where the error ties within the arithmetic of the search.
        EXPECT_LE(error, best * (1.0 + 1e-5)) << power << " " << count << " " << stream;
        if (power == 2.0 && error > best * (1.0 + 1e-7)) {
          EXPECT_NE(found.grid.scale, expected.grid.scale);
        }
      }
}

INSTANTIATE_TEST_SUITE_P(Schemes, Search,
                         testing::Values("int4-g128", "int3-g128", "int2-g64-asym", "int4-g128-asym",
                                         "int4-g32-asymf", "int8-ch", "nf4-g64", "fp8-e4m3-ch"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Columns without importance do not pull the range.
TEST(WeightedSearch, ImportanceDecides) {
  const QuantScheme s = scheme("int3-g128-sf32");
  Group group = random_group(128, 3);
  for (float& u : group.importance) u = 1.0f;
  group.values[3] = 9.0f;
  const float without = fit_clipped(s, group.values, {.power = 2.0}, group.importance).grid.scale;
  group.importance[3] = 0.0f;
  const float ignored = fit_clipped(s, group.values, {.power = 2.0}, group.importance).grid.scale;
  group.importance[3] = 1e6f;
  const float vital = fit_clipped(s, group.values, {.power = 2.0}, group.importance).grid.scale;
  EXPECT_LT(ignored, without);
  EXPECT_GT(vital, without);
  // Equal importances are no importances.
  group.importance.assign(128, 1.0f);
  EXPECT_EQ(fit_clipped(s, group.values, {}, group.importance).grid.scale,
            fit_clipped(s, group.values, {}).grid.scale);
  // None that counts: the widest range wins.
  group.importance.assign(128, 0.0f);
  for (const double power : {2.0, 2.4}) {
    EXPECT_EQ(fit_clipped(s, group.values, {.power = power}, group.importance).grid.scale,
              fit_min_max(s, group.values).grid.scale);
  }
}

TEST(SquaredError, IsThatOfTheCodes) {
  for (const char* text : {"int4-g128", "int8-ch", "int3-g64-asym", "int4-g32-asymf"}) {
    const QuantScheme s = scheme(text);
    for (const size_t count : {size_t(1), size_t(16), size_t(45), size_t(128)}) {
      const Group group = random_group(count, uint32_t(count));
      const Grid grid = fit_min_max(s, group.values).grid;
      const double expected = weighted_error(s, grid, group, 2.0);
      EXPECT_NEAR(squared_error(s, grid, PaddedGroup(group.values, group.importance)), expected,
                  1e-5 * expected)
          << text << " " << count;
    }
  }
}

// The same bytes whichever vectors the machine has.
TEST(SquaredError, EqualOnEveryLevel) {
  for (const char* text : {"int4-g128", "int8-ch", "int3-g64-asym", "int4-g32-asymf"}) {
    const QuantScheme s = scheme(text);
    for (const size_t count : {size_t(5), size_t(64), size_t(130)}) {
      const Group group = random_group(count, uint32_t(count) + 50);
      const PaddedGroup padded(group.values, group.importance);
      const Grid grid = fit_min_max(s, group.values).grid;
      const double expected = squared_error(s, grid, padded, VectorLevel::generic);
      for (const VectorLevel level : {VectorLevel::avx2, VectorLevel::avx512}) {
        if (level > host_vector_level()) continue;
        EXPECT_EQ(squared_error(s, grid, padded, level), expected) << text << " " << int(level);
      }
    }
  }
}

}  // namespace
}  // namespace pare
