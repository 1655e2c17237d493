// Tensors between host memory and a device.
#include "engine/tensor/transfer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "engine/backends/cuda/cuda_backend.h"
#include "engine/tensor/backend.h"
#include "tests/support/walk.h"

namespace pare {
namespace {

using test::checked;

class Transfer : public ::testing::Test {
 protected:
  void SetUp() override { install_backend(checked(make_cuda_backend(0, {}))); }
  const Device gpu_ = Device::cuda(0);

  static Tensor counting(const Shape& shape) {
    Tensor tensor = checked(Tensor::allocate(DType::f32, shape));
    std::iota(tensor.mutable_data<float>(), tensor.mutable_data<float>() + tensor.numel(), 1.0f);
    return tensor;
  }
};

TEST_F(Transfer, ThereAndBack) {
  const Tensor tensor = counting({7, 13});
  const Tensor there = checked(moved(tensor, gpu_));
  EXPECT_EQ(there.device(), gpu_);
  const Tensor back = checked(moved(there, Device::cpu()));
  EXPECT_TRUE(std::equal(back.data<float>(), back.data<float>() + 91, tensor.data<float>()));
  EXPECT_EQ(checked(moved(there, gpu_)).raw(), there.raw());
}

TEST_F(Transfer, RowsWithGaps) {
  const Tensor tensor = counting({5, 8});
  const Tensor there = checked(Tensor::allocate(DType::f32, {5, 10}, gpu_));
  checked(copy_into(tensor.columns(2, 6), there.columns(3, 7)));
  const Tensor other = checked(Tensor::allocate(DType::f32, {5, 6}, gpu_));
  checked(copy_into(there.columns(2, 8), other));  // on the device
  clear(other.columns(5, 6));
  const Tensor back = checked(moved(other, Device::cpu()));
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t c = 0; c < 6; ++c) {
      const float want = c >= 1 && c < 5 ? tensor.data<float>()[r * 8 + c + 1] : 0.0f;
      EXPECT_EQ(back.data<float>()[r * 6 + c], want) << r << ", " << c;
    }
  }
}

TEST_F(Transfer, AllocatedMemoryIsZero) {
  const Tensor back = checked(moved(checked(Tensor::allocate(DType::f32, {100}, gpu_)), Device::cpu()));
  EXPECT_TRUE(std::all_of(back.data<float>(), back.data<float>() + 100, [](float x) { return x == 0.0f; }));
}

TEST_F(Transfer, CountsItsMemory) {
  auto backend = checked(make_cuda_backend(0, {.max_bytes = 4096}));
  const Backend& gpu = *backend;
  install_backend(std::move(backend));
  {
    const Tensor one = checked(Tensor::allocate(DType::u8, {3000}, gpu_));
    EXPECT_EQ(cuda::memory_use(gpu).held_bytes, 3072u);
    const auto two = Tensor::allocate(DType::u8, {2000}, gpu_);
    ASSERT_FALSE(two);
    EXPECT_EQ(two.error().exit, Exit::resource);
  }
  EXPECT_EQ(cuda::memory_use(gpu).held_bytes, 0u);
  EXPECT_EQ(cuda::memory_use(gpu).peak_bytes, 3072u);
}

}  // namespace
}  // namespace pare
