// The integer kernels of every level: all that the host can run give the same bytes, and packing loses
// nothing.
#include "engine/backends/cpu/matmul/int8.h"

#include <cstring>

#include "engine/tensor/workspace.h"
#include "tests/engine/backends/cpu_matmul/quantized_support.h"

namespace pare::cpu::test {
namespace {

TEST(Int8Test, EveryKernelOfEveryLevelGivesTheSameBytes) {
  for (const auto& [m, n, k] : {std::tuple{1, 40, 132}, {5, 17, 66}, {31, 70, 259}, {3, 8, 2000}}) {
    for (const char* text : {"int8-ch", "int8-g32-asym", "int4-g64"}) {
      QuantizedTensor weight = *random_quantized(scheme_of(text), n, k, false, 1);
      weight.activation = ActivationQuant{.symmetric = m != 5};
      Numbers numbers(2);
      std::vector<float> x(size_t(m * k));
      for (float& value : x) value = numbers.real();
      std::vector<float> first;
      for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx512}) {
        if (isa > host_isa()) continue;
        const PackedMatrix packed = *prepack(isa, std::make_shared<QuantizedTensor>(weight));
        const auto kernels = int8_kernels(isa);
        ASSERT_FALSE(kernels.empty());
        for (const Int8Kernels* kernel : kernels) {
          SCOPED_TRACE(testing::Message()
                       << kernel->name << " " << text << " m " << m << " n " << n << " k " << k);
          ASSERT_EQ(kernel->width, packed.layout.row_tile);
          std::vector<float> out(size_t(m * n), -1.0f);
          Workspace workspace = *Workspace::reserve(int8_workspace_bytes(packed, m), Device::cpu());
          const Tensor memory = workspace.take(DType::u8, {int64_t(workspace.capacity())});
          int8_matmul_with(*kernel, {.x = x.data(),
                                     .weight = &packed,
                                     .bias = nullptr,
                                     .out = out.data(),
                                     .m = m,
                                     .n = n,
                                     .k = k,
                                     .x_stride = k,
                                     .out_stride = n,
                                     .accumulate = false,
                                     .workspace = memory.mutable_raw()});
          if (first.empty()) first = out;
          EXPECT_EQ(std::memcmp(first.data(), out.data(), out.size() * sizeof(float)), 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace pare::cpu::test
