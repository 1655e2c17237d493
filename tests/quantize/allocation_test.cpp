#include "quantize/allocation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/core/random.h"

namespace pare {
namespace {

AllocationChoice choice(uint64_t bytes, double cost) {
  return {.scheme = std::nullopt, .bytes = bytes, .cost = cost};
}

// Units of different size with formats of 3, 4, 8 and 16 bits; costs fall about fourfold per bit, with noise.
std::vector<AllocationUnit> random_units(size_t count, uint32_t stream) {
  const Random random(11, RandomPurpose::test_data, stream);
  std::vector<AllocationUnit> units;
  for (size_t u = 0; u < count; ++u) {
    AllocationUnit unit{.name = "unit" + std::to_string(u), .choices = {}};
    const double weights = 1000.0 + double(random.below(9000, u));
    const double sensitivity = std::exp(2.0 * double(random.normal(u, 1)));
    const double bits[] = {3.1, 4.1, 8.1, 16.0};
    for (uint32_t f = 0; f < 4; ++f) {
      const double noise = std::exp(0.3 * double(random.normal(u, 2 + f)));
      unit.choices.push_back(choice(uint64_t(weights * bits[f] / 8.0),
                                    f == 3 ? 0.0 : noise * sensitivity * std::pow(4.0, -bits[f])));
    }
    units.push_back(unit);
  }
  return units;
}

// The smallest sum of costs over all mixes within the budget.
double brute_force(const std::vector<AllocationUnit>& units, uint64_t budget) {
  double best = std::numeric_limits<double>::infinity();
  std::vector<size_t> digits(units.size(), 0);
  for (;;) {
    uint64_t bytes = 0;
    double cost = 0.0;
    for (size_t u = 0; u < units.size(); ++u) {
      bytes += units[u].choices[digits[u]].bytes;
      cost += units[u].choices[digits[u]].cost;
    }
    if (bytes <= budget) best = std::min(best, cost);
    size_t u = 0;
    while (u < units.size() && ++digits[u] == units[u].choices.size()) digits[u++] = 0;
    if (u == units.size()) return best;
  }
}

void expect_consistent(const std::vector<AllocationUnit>& units, const Allocation& result, uint64_t budget) {
  uint64_t bytes = 0;
  double cost = 0.0;
  ASSERT_EQ(result.choice.size(), units.size());
  for (size_t u = 0; u < units.size(); ++u) {
    ASSERT_LT(result.choice[u], units[u].choices.size());
    bytes += units[u].choices[result.choice[u]].bytes;
    cost += units[u].choices[result.choice[u]].cost;
  }
  EXPECT_EQ(bytes, result.bytes);
  EXPECT_LE(bytes, budget);
  EXPECT_NEAR(cost, result.cost, 1e-12 * std::abs(cost));
}

uint64_t smallest_size(const std::vector<AllocationUnit>& units) {
  uint64_t total = 0;
  for (const AllocationUnit& unit : units) {
    uint64_t least = std::numeric_limits<uint64_t>::max();
    for (const AllocationChoice& c : unit.choices) least = std::min(least, c.bytes);
    total += least;
  }
  return total;
}

TEST(Allocation, IsTheBestOfAllMixes) {
  for (uint32_t stream = 0; stream < 10; ++stream) {
    const std::vector<AllocationUnit> units = random_units(6, stream);
    const uint64_t smallest = smallest_size(units);
    for (double share : {1.0, 1.05, 1.3, 2.0, 3.0, 4.0, 9.0}) {
      const uint64_t budget = uint64_t(double(smallest) * share);
      const auto result = allocate_bits(units, budget);
      ASSERT_TRUE(result.has_value());
      expect_consistent(units, *result, budget);
      EXPECT_TRUE(result->is_exact);
      EXPECT_NEAR(result->cost, brute_force(units, budget), 1e-12) << stream << " " << share;
    }
  }
}

TEST(Allocation, LargerBudgetsNeverCostMore) {
  for (const size_t count : {size_t(6), size_t(60)}) {
    const std::vector<AllocationUnit> units = random_units(count, 77);
    const uint64_t smallest = smallest_size(units);
    double last = std::numeric_limits<double>::infinity();
    for (int step = 0; step <= 60; ++step) {
      const uint64_t budget = smallest + uint64_t(step) * smallest / 10;
      const auto result = allocate_bits(units, budget);
      ASSERT_TRUE(result.has_value());
      expect_consistent(units, *result, budget);
      EXPECT_LE(result->cost, last) << step;
      last = result->cost;
    }
    EXPECT_NEAR(last, 0.0, 1e-12) << "everything is kept in the end";
  }
}

// Thinned mixes stay close to the bound that the convex hulls give.
TEST(Allocation, ManyUnitsAreWithinOneStepOfTheRelaxedOptimum) {
  const std::vector<AllocationUnit> units = random_units(120, 5);
  const uint64_t smallest = smallest_size(units);
  for (double share : {1.1, 1.4, 2.0, 3.0}) {
    const uint64_t budget = uint64_t(double(smallest) * share);
    const Allocation result = allocate_bits(units, budget).value();
    EXPECT_FALSE(result.is_exact);
    // Lagrangian bound: for any price per byte, min over mixes of cost + price * (bytes - budget) is below
    // the best cost within the budget.
    double bound = 0.0;
    for (double log_price = -60.0; log_price < 5.0; log_price += 0.02) {
      const double price = std::exp(log_price);
      double value = -price * double(budget);
      for (const AllocationUnit& unit : units) {
        double least = std::numeric_limits<double>::infinity();
        for (const AllocationChoice& c : unit.choices)
          least = std::min(least, c.cost + price * double(c.bytes));
        value += least;
      }
      bound = std::max(bound, value);
    }
    EXPECT_GE(result.cost, bound * (1.0 - 1e-9));
    EXPECT_LE(result.cost, bound * 1.02) << share;
  }
}

TEST(Allocation, CurveFallsAndHoldsTheResult) {
  const std::vector<AllocationUnit> units = random_units(8, 3);
  const uint64_t budget = 2 * smallest_size(units);
  const Allocation result = allocate_bits(units, budget).value();
  ASSERT_GE(result.curve.size(), 2u);
  EXPECT_EQ(result.curve.front().bytes, smallest_size(units));
  bool has_result = false;
  for (size_t i = 0; i < result.curve.size(); ++i) {
    if (i > 0) {
      EXPECT_GT(result.curve[i].bytes, result.curve[i - 1].bytes);
      EXPECT_LT(result.curve[i].cost, result.curve[i - 1].cost);
    }
    has_result = has_result || (result.curve[i].bytes == result.bytes && result.curve[i].cost == result.cost);
    // Every point is what that budget would give.
    if (i % 7 == 0) {
      EXPECT_EQ(allocate_bits(units, result.curve[i].bytes)->cost, result.curve[i].cost);
    }
  }
  EXPECT_TRUE(has_result);
}

// A larger format that was measured to be worse is noise: it is not bought.
TEST(Allocation, CostsAreMadeMonotone) {
  const std::vector<AllocationUnit> units = {{"a", {choice(10, 1.0), choice(20, 1.5), choice(30, 0.5)}},
                                             {"b", {choice(10, 2.0), choice(10, 1.0)}}};
  Allocation result = allocate_bits(units, 45).value();
  EXPECT_EQ(result.choice, (std::vector<size_t>{2, 1}));
  result = allocate_bits(units, 35).value();
  EXPECT_EQ(result.choice, (std::vector<size_t>{0, 1}));
  EXPECT_EQ(result.bytes, 20u);
}

TEST(Allocation, TiesGoToTheSmallerUnit) {
  const AllocationUnit unit{"u", {choice(10, 1.0), choice(20, 0.5)}};
  const std::vector<AllocationUnit> units = {unit, unit, unit, unit};
  EXPECT_EQ(allocate_bits(units, 40)->choice, (std::vector<size_t>{0, 0, 0, 0}));
  EXPECT_EQ(allocate_bits(units, 55)->choice, (std::vector<size_t>{1, 0, 0, 0}));
  EXPECT_EQ(allocate_bits(units, 60)->choice, (std::vector<size_t>{1, 1, 0, 0}));
  EXPECT_EQ(allocate_bits(units, 1000)->choice, (std::vector<size_t>{1, 1, 1, 1}));
}

TEST(Allocation, BudgetsBelowTheSmallestNameIt) {
  const std::vector<AllocationUnit> units = random_units(5, 1);
  const uint64_t smallest = smallest_size(units);
  EXPECT_TRUE(allocate_bits(units, smallest).has_value());
  const auto refused = allocate_bits(units, smallest - 1);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().exit, Exit::usage);
  EXPECT_EQ(refused.error().limit, std::to_string(smallest) + " bytes");
}

TEST(Allocation, CostsMustBeFinite) {
  std::vector<AllocationUnit> units = random_units(3, 1);
  units[1].choices[2].cost = std::numeric_limits<double>::quiet_NaN();
  const auto refused = allocate_bits(units, 1u << 30);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().exit, Exit::numeric);
  EXPECT_NE(format_error(refused.error()).find("unit1"), std::string::npos);
}

TEST(Allocation, NoUnits) {
  const Allocation result = allocate_bits({}, 0).value();
  EXPECT_TRUE(result.choice.empty());
  EXPECT_EQ(result.bytes, 0u);
}

}  // namespace
}  // namespace pare
