// The same bytes in whatever order the emulator runs threads and blocks: also the sums that the last block to
// come adds up.
#include <cuda_runtime.h>

#include <vector>

#include <gtest/gtest.h>

#include "engine/backends/cuda/cuda_backend.h"
#include "engine/backends/cuda/packed_table.h"
#include "engine/core/random.h"
#include "engine/tensor/quantized_tensor.h"

namespace pare::cuda {
namespace {

QuantizedTensor random_weight(const char* scheme, int64_t out, int64_t in) {
  QuantizedTensor weight = *QuantizedTensor::allocate(*QuantScheme::parse(scheme), out, in);
  const Random random(3, RandomPurpose::test_data);
  for (int64_t i = 0; i < weight.codes.numel(); ++i)
    weight.codes.mutable_data<uint8_t>()[i] = uint8_t(random.below(256, uint64_t(i)));
  for (int64_t i = 0; i < weight.scales.numel(); ++i)  // f16, 2^-7 to 2^-6
    weight.scales.mutable_data<uint16_t>()[i] = uint16_t(0x2000 + random.below(0x400, uint64_t(i), 1));
  for (int64_t i = 0; weight.zero_points.defined() && i < weight.zero_points.numel(); ++i)
    weight.zero_points.mutable_data<uint8_t>()[i] =
        uint8_t(random.below(uint64_t(weight.scheme.code_count()), uint64_t(i), 2));
  return weight;
}

TEST(PackedOrders, SameBytesInEveryOrder) {
  for (const MathMode math : {MathMode::f32, MathMode::bf16}) {
    auto backend = *make_cuda_backend(0, {.math = math});
    for (const char* scheme : {"int4-g128", "int8-g32-asym", "nf4-g64", "int3-g16"}) {
      constexpr int64_t kOut = 70, kIn = 4400;  // several slices of inputs, several runs per tile
      const auto weight = std::make_shared<QuantizedTensor>(random_weight(scheme, kOut, kIn));
      const PackedMatrix packed = *backend->prepack(weight);
      for (const int64_t m : {1, 11, 40}) {
        const Random random(4, RandomPurpose::test_data);
        std::vector<float> x(size_t(m * kIn));
        for (size_t i = 0; i < x.size(); ++i) x[i] = 2.0f * random.uniform(i) - 1.0f;
        std::vector<std::vector<float>> results;
        for (const auto order :
             {emulator::Order::forward, emulator::Order::reverse, emulator::Order::shuffled}) {
          emulator::set_order(order, 5);
          const auto workspace = *backend->allocate(backend->packed_matmul_workspace_bytes(packed, m) + 64);
          results.emplace_back(size_t(m * kOut));
          backend->packed_matmul({.x = x.data(),
                                  .weight = &packed,
                                  .bias = nullptr,
                                  .out = results.back().data(),
                                  .m = m,
                                  .n = kOut,
                                  .k = kIn,
                                  .x_stride = kIn,
                                  .out_stride = kOut,
                                  .accumulate = false,
                                  .workspace = workspace->mutable_data()});
          ASSERT_TRUE(backend->finish().has_value());
        }
        emulator::set_order(emulator::Order::forward);
        EXPECT_EQ(results[1], results[0]) << scheme << " m " << m;
        EXPECT_EQ(results[2], results[0]) << scheme << " m " << m;
      }
    }
  }
}

}  // namespace
}  // namespace pare::cuda
