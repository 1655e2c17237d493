// The same bytes in whatever order threads and blocks run, and with every share of the summed dimension.
#include <cuda_runtime.h>

#include <numeric>

#include "engine/backends/cuda/few_rows.h"
#include "tests/engine/backends/cuda_dense/support.h"

namespace pare::test {
namespace {

std::vector<float> reals(int64_t count, uint64_t seed) {
  const Random random(seed, RandomPurpose::test_data);
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = 2.0f * random.uniform(i) - 1.0f;
  return values;
}

template <typename Run>
void expect_same_in_every_order(Run&& run) {
  emulator::set_order(emulator::Order::forward);
  const std::vector<float> want = run();
  emulator::set_order(emulator::Order::reverse);
  EXPECT_EQ(run(), want);
  emulator::set_order(emulator::Order::shuffled, 5);
  EXPECT_EQ(run(), want);
  emulator::set_order(emulator::Order::forward);
}

TEST(CudaDenseOrders, FewRows) {
  const auto backend = open_backend(cuda::MathMode::bf16);
  // 9 outputs and 4608 columns: few owners, so that the warps of a block share the columns
  for (const auto& [m, n, k] : {std::tuple{1, 9, 4608}, {3, 9, 2049}, {8, 70, 256}}) {
    const auto x = reals(m * k, 1), bias = reals(n, 2);
    const auto weight = as_bf16(reals(n * k, 3));
    double largest = 0.0;
    expect_same_in_every_order([&, m = m, n = n, k = k] {
      std::vector<float> out(size_t(m * n));
      backend->matmul({.x = x.data(),
                       .weight = weight.data(),
                       .weight_dtype = DType::bf16,
                       .bias = bias.data(),
                       .out = out.data(),
                       .m = m,
                       .n = n,
                       .k = k,
                       .x_stride = k,
                       .out_stride = n,
                       .accumulate = false,
                       .workspace = nullptr});
      EXPECT_TRUE(backend->finish().has_value());
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          double want = double(bias[size_t(j)]);
          for (int64_t l = 0; l < k; ++l)
            want += double(bf16_to_float(float_to_bf16(x[size_t(i * k + l)]))) *
                    double(bf16_to_float(weight[size_t(j * k + l)]));
          largest = std::max(largest, std::abs(want - double(out[size_t(i * n + j)])));
        }
      }
      return out;
    });
    EXPECT_LT(largest, 1e-3);  // float sums of rounded factors
  }
}

TEST(CudaDenseOrders, ColumnSumsOfManyParts) {
  const auto backend = open_backend(cuda::MathMode::f32);
  constexpr int64_t m = 300, n = 131;
  const auto x = reals(m, 4), dout = reals(m * n, 5);
  expect_same_in_every_order([&] {
    std::vector<float> dweight(n), dbias(n, 0.5f);
    backend->training()->matmul_weight_backward({.x = x.data(),
                                                 .dout = dout.data(),
                                                 .dweight = dweight.data(),
                                                 .dbias = dbias.data(),
                                                 .m = m,
                                                 .n = n,
                                                 .k = 1,
                                                 .x_stride = 1,
                                                 .dout_stride = n,
                                                 .workspace = nullptr});
    EXPECT_TRUE(backend->finish().has_value());
    dweight.insert(dweight.end(), dbias.begin(), dbias.end());
    return dweight;
  });
}

TEST(CudaDenseOrders, MirrorScanAndFactor) {
  const auto backend = open_backend(cuda::MathMode::f32);
  constexpr int64_t n = 70;
  expect_same_in_every_order([&] {
    std::vector<float> moment = reals(n * n, 6), upper(n * n);
    for (int64_t i = 0; i < n; ++i) moment[size_t(i * n + i)] += float(n);
    StatisticsBackend& statistics = *backend->statistics();
    statistics.mirror_moment({.moment = moment.data(), .channels = n});
    const auto summary = statistics.summarize_moment(moment.data(), n, 1e-6);
    EXPECT_TRUE(summary.has_value() && summary->first_asymmetric == -1 && summary->first_not_finite == -1);
    const auto report = statistics.inverse_factor({.moment = moment.data(),
                                                   .order = nullptr,
                                                   .upper = upper.data(),
                                                   .n = n,
                                                   .dead_diagonal = 1.0,
                                                   .added = 0.0,
                                                   .in_double = true});
    EXPECT_TRUE(report.has_value() && report->is_definite);
    moment.insert(moment.end(), upper.begin(), upper.end());
    return moment;
  });
}

}  // namespace
}  // namespace pare::test
