// Shape, Tensor, Storage, Workspace, DType, conversions.
#include "engine/tensor/tensor.h"

#include <numeric>

#include <gtest/gtest.h>

#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/workspace.h"

namespace pare {
namespace {

Tensor counting(const Shape& shape) {
  Tensor tensor = *Tensor::allocate(DType::f32, shape);
  std::iota(tensor.mutable_data<float>(), tensor.mutable_data<float>() + tensor.numel(), 0.0f);
  return tensor;
}

TEST(ShapeTest, ExtentsAndText) {
  const Shape shape{4096, 11008};
  EXPECT_EQ(shape.rank(), 2);
  EXPECT_EQ(shape[-1], 11008);
  EXPECT_EQ(shape.numel(), int64_t{4096} * 11008);
  EXPECT_EQ(shape.text(), "[4096, 11008]");
  EXPECT_EQ(Shape().numel(), 1);
  EXPECT_EQ(Shape().text(), "[]");
  EXPECT_EQ((Shape{3, 0, 5}).numel(), 0);
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_FALSE((Shape{2, 3}) == (Shape{2, 3, 1}));
}

TEST(ShapeTest, ImpossibleShapesAreBugs) {
  EXPECT_THROW((Shape{2, -1}), InternalError);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}), InternalError);
  EXPECT_THROW((Shape{2, 3})[2], InternalError);
  EXPECT_THROW((Shape{2, 3})[-3], InternalError);
  EXPECT_THROW((Shape{int64_t{1} << 40, int64_t{1} << 40}).numel(), InternalError);
}

TEST(TensorTest, NewTensorsAreZeroAndAligned) {
  const Tensor tensor = *Tensor::allocate(DType::f32, {3, 5});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.raw()) % 64, 0u);
  for (int64_t i = 0; i < 15; ++i) EXPECT_EQ(tensor.data<float>()[i], 0.0f);
  EXPECT_EQ(tensor.size_bytes(), 60u);
  EXPECT_TRUE(tensor.is_contiguous());
  EXPECT_FALSE(Tensor().defined());
}

TEST(TensorTest, MemoryThatIsNotThereIsExit6) {
  const auto huge = Tensor::allocate(DType::f32, {int64_t{1} << 45, 1});
  ASSERT_FALSE(huge);
  EXPECT_EQ(huge.error().exit, Exit::resource);
  EXPECT_NE(format_error(huge.error()).find("140737488355328 bytes"), std::string::npos)
      << format_error(huge.error());
  EXPECT_EQ(Tensor::allocate(DType::f64, {int64_t{1} << 40, int64_t{1} << 40}).error().exit, Exit::resource);
}

TEST(TensorTest, ViewsShareBytes) {
  const Tensor matrix = counting({4, 6});
  const Tensor rows = matrix.rows(1, 3);
  EXPECT_EQ(rows.shape(), (Shape{2, 6}));
  EXPECT_EQ(rows.data<float>()[0], 6.0f);
  const Tensor columns = matrix.columns(2, 5);
  EXPECT_EQ(columns.shape(), (Shape{4, 3}));
  EXPECT_EQ(columns.row_stride(), 6);
  EXPECT_FALSE(columns.is_contiguous());
  EXPECT_EQ(columns.data<float>()[columns.row_stride()], 8.0f);
  EXPECT_EQ(columns.rows(2, 4).data<float>()[0], 14.0f);
  EXPECT_TRUE(columns.rows(2, 3).is_contiguous()) << "one row has no gap";
  columns.mutable_data<float>()[0] = -1.0f;
  EXPECT_EQ(matrix.data<float>()[2], -1.0f);
  EXPECT_EQ(matrix.reshaped({2, 2, 6}).rows(1, 2).data<float>()[0], 12.0f);
  EXPECT_EQ(matrix.reshaped({24}).rows(5, 9).shape(), (Shape{4}));
  EXPECT_EQ(matrix.reshaped({24}).rows(5, 9).data<float>()[0], 5.0f);
  EXPECT_EQ(matrix.rows(2, 2).numel(), 0);
}

TEST(TensorTest, MisuseIsABug) {
  const Tensor matrix = counting({4, 6});
  EXPECT_THROW(matrix.columns(1, 3).reshaped({8}), InternalError);
  EXPECT_THROW(matrix.reshaped({5, 5}), InternalError);
  EXPECT_THROW(matrix.rows(2, 5), InternalError);
  EXPECT_THROW(matrix.columns(3, 2), InternalError);
  EXPECT_THROW(matrix.data<uint16_t>(), InternalError);
  EXPECT_THROW(Tensor(matrix.storage(), 8, DType::f32, {4, 6}), InternalError) << "beyond the end";
  EXPECT_THROW(matrix.on(Device::cuda(0)), InternalError);
  EXPECT_THROW(Tensor().raw(), InternalError);
}

TEST(TensorTest, BorrowedBytesAreReadOnlyAndKeepTheirOwner) {
  auto owner = std::make_shared<std::vector<float>>(6, 2.5f);
  const std::weak_ptr<std::vector<float>> watch = owner;
  {
    const Tensor tensor(Storage::borrow(owner->data(), 24, owner, Device::cpu()), 0, DType::f32, {2, 3});
    owner.reset();
    EXPECT_FALSE(watch.expired());
    EXPECT_EQ(tensor.data<float>()[5], 2.5f);
    EXPECT_TRUE(tensor.storage()->is_read_only());
    EXPECT_THROW(tensor.mutable_data<float>(), InternalError);
  }
  EXPECT_TRUE(watch.expired());
}

TEST(TensorTest, OtherHostBackendsSeeTheSameBytes) {
  const Tensor tensor = counting({2, 2});
  EXPECT_EQ(tensor.on(Device::reference()).device(), Device::reference());
  EXPECT_EQ(tensor.on(Device::reference()).raw(), tensor.raw());
}

TEST(TensorTest, SubByteTypes) {
  const Tensor tensor = *Tensor::allocate(DType::f4, {4, 6});
  EXPECT_EQ(tensor.size_bytes(), 12u);
  EXPECT_EQ(tensor.rows(1, 2).raw() - tensor.raw(), 3);
  EXPECT_THROW(tensor.columns(1, 3), InternalError) << "begins inside a byte";
}

TEST(DTypeTest, NamesWidthsAndConfigSpellings) {
  int count = 0;
  for (int value = 0; value <= int(DType::u64); ++value) {
    const auto dtype = DType(value);
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
    EXPECT_GT(dtype_bits(dtype), 0);
    ++count;
  }
  EXPECT_EQ(count, 22);
  EXPECT_EQ(dtype_bits(DType::f6_e2m3), 6);
  EXPECT_EQ(dtype_name(DType::f8_e4m3), "F8_E4M3");
  EXPECT_EQ(dtype_from_name("bf16"), std::nullopt);
  EXPECT_EQ(dtype_from_config("bfloat16"), DType::bf16);
  EXPECT_EQ(dtype_from_config("int8"), std::nullopt);
  EXPECT_EQ(dtype_epsilon(DType::f32), 0x1p-23);
  EXPECT_EQ(dtype_epsilon(DType::bf16), 0x1p-7);
  EXPECT_EQ(dtype_epsilon(DType::f8_e4m3), 0.125);
  EXPECT_TRUE(is_floating(DType::bf16) && is_floating(DType::f4) && !is_floating(DType::boolean));
}

TEST(ConvertedTest, EveryPairOfTypesGoesThroughFloat) {
  const DType types[] = {DType::f32, DType::bf16, DType::f16, DType::f8_e4m3, DType::f8_e5m2};
  const Tensor values = counting({3, 5});  // 0 .. 14 fits all of them but e5m2, which rounds
  for (const DType from : types) {
    const Tensor source = *converted(values, from);
    EXPECT_EQ(source.dtype(), from);
    for (const DType to : types) {
      const Tensor back = *converted(*converted(source, to), DType::f32);
      if (from == DType::f8_e5m2 || to == DType::f8_e5m2) {
        EXPECT_EQ(back.data<float>()[9], 8.0f);    // a tie between 8 and 10 goes to the even code
        EXPECT_EQ(back.data<float>()[11], 12.0f);  // and between 10 and 12
      } else {
        for (int64_t i = 0; i < 15; ++i) EXPECT_EQ(back.data<float>()[i], float(i));
      }
    }
  }
  const auto refused = converted(*Tensor::allocate(DType::i32, {2}), DType::f32);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::unsupported);
}

TEST(ConvertedTest, ViewsWithGapsAndManyElements) {
  const Tensor wide = counting({700, 333});
  const Tensor view = wide.columns(3, 300);
  const Tensor copy = *converted(view, DType::f32);
  EXPECT_TRUE(copy.is_contiguous());
  for (int64_t r = 0; r < 700; r += 11) {
    for (int64_t c = 0; c < 297; c += 7) ASSERT_EQ(copy.data<float>()[r * 297 + c], float(r * 333 + c + 3));
  }
}

TEST(TransposedTest, SwapsAxesOfAnyWidth) {
  const Tensor matrix = counting({37, 70});
  const Tensor turned = *transposed(matrix.columns(5, 70));
  EXPECT_EQ(turned.shape(), (Shape{65, 37}));
  for (int64_t r = 0; r < 65; ++r) {
    for (int64_t c = 0; c < 37; ++c) ASSERT_EQ(turned.data<float>()[r * 37 + c], float(c * 70 + r + 5));
  }
  const Tensor half = *transposed(*converted(matrix.columns(0, 50).rows(0, 5), DType::bf16));
  EXPECT_EQ(bf16_to_float(half.data<uint16_t>()[1 * 5 + 0]), 1.0f);
  EXPECT_EQ(transposed(*Tensor::allocate(DType::f32, {0, 4}))->shape(), (Shape{4, 0}));
}

TEST(WorkspaceTest, HandsOutAlignedMemoryLikeAStack) {
  const size_t need = Workspace::bytes_for(DType::f32, {3}) + Workspace::bytes_for(DType::u8, {65});
  EXPECT_EQ(need, 64u + 128u);
  Workspace workspace = *Workspace::reserve(need, Device::cpu());
  const std::byte* first = nullptr;
  {
    const Workspace::Scope scope(workspace);
    const Tensor a = workspace.take(DType::f32, {3});
    const Tensor b = workspace.take(DType::u8, {65});
    first = a.raw();
    EXPECT_EQ(b.raw() - a.raw(), 64);
    EXPECT_EQ(workspace.used(), need);
    EXPECT_THROW(workspace.take(DType::u8, {1}), InternalError);
  }
  EXPECT_EQ(workspace.used(), 0u);
  EXPECT_EQ(workspace.peak(), need);
  EXPECT_EQ(workspace.take(DType::f32, {3}).raw(), first);
}

}  // namespace
}  // namespace pare
