// Low-bit products on the CUDA backend: every kernel against the definition, at the edges of its tiles.
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/backends/cuda/packed_layout_cuda.h"
#include "engine/backends/cuda/packed_table.h"
#include "packed_support.h"
#include "tests/engine/backends/host_view.h"

namespace pare::cuda {
namespace {

using namespace pare::test;

// Forces a kernel while it lives.
struct Forced {
  explicit Forced(std::string_view name) { force_packed_kernel(name); }
  ~Forced() { force_packed_kernel({}); }
};

class PackedProductTest : public BackendTest {};
INSTANTIATE_TEST_SUITE_P(Backends, PackedProductTest, testing::Values("cuda_f32", "cuda_bf16"),
                         [](const testing::TestParamInfo<std::string>& info) { return info.param; });

PackedMatrix pack(const QuantizedTensor& weight) {
  Result<PackedMatrix> packed =
      backend_for(Device::check()).prepack(std::make_shared<QuantizedTensor>(weight));
  PARE_ASSERT(packed.has_value(), "{}", format_error(packed.error()));
  return *packed;
}

Tensor product(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, bool accumulate, Tensor out) {
  Workspace workspace =
      *Workspace::reserve(ops::matmul_workspace_bytes(Device::check(), weight, x.size(0)), Device::check());
  ops::matmul(x, weight, bias, accumulate, out, workspace);
  return out;
}

// The bytes that the device packs are those of the host, for every scheme.
TEST(PackedPrepack, DeviceAndHostMakeTheSameBytes) {
  auto backend = *make_cuda_backend(0, {});
  for (const char* scheme : kPackedSchemes) {
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{1, 1}, {17, 70}, {50, 300}}) {
      QuantizedTensor weight = random_packed(scheme, out, in, 1);
      const bool is_indexed = weight.scheme.granularity == QuantScheme::Granularity::group && in == 300;
      if (is_indexed) {
        weight.group_index = *Tensor::allocate(DType::i32, {in});
        for (int64_t i = 0; i < in; ++i)
          weight.group_index.mutable_data<int32_t>()[i] = int32_t(i * 7 % weight.scheme.groups(in));
      }
      const PackedMatrix host = *pack_fragments(weight);
      const Result<PackedMatrix> device = backend->prepack(std::make_shared<QuantizedTensor>(weight));
      ASSERT_TRUE(device.has_value()) << format_error(device.error());
      EXPECT_EQ(device->layout, host.layout);
      for (const auto& part : {&PackedMatrix::codes, &PackedMatrix::scales, &PackedMatrix::offsets}) {
        const Tensor &a = host.*part, &b = (*device).*part;
        ASSERT_EQ(a.defined(), b.defined()) << scheme;
        if (!a.defined()) continue;
        ASSERT_TRUE(a.shape() == b.shape()) << scheme;
        Tensor copy = *Tensor::allocate(b.dtype(), b.shape());
        ASSERT_TRUE(backend->download(copy.mutable_raw(), b.raw(), b.size_bytes()).has_value());
        expect_same_bytes(a, copy, std::string(scheme) + " " + std::to_string(out));
      }
      expect_same_matrix(*backend->unpack(*device), weight, scheme);
    }
  }
}

// Every kernel that can run a problem, for every scheme: whole tiles, edges, one row and one more than a
// tile.
TEST_P(PackedProductTest, EveryKernelAgreesOnEverySchemeAtItsEdges) {
  for (const PackedKernel& kernel : packed_kernels()) {
    const Forced forced(kernel.name);
    for (const char* scheme : kPackedSchemes) {
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {17, 70}, {50, 333}}) {
        const PackedMatrix weight = pack(random_packed(scheme, n, k, 2));
        for (const int64_t m : {1, 5, 17}) {
          SCOPED_TRACE(testing::Message()
                       << kernel.name << " " << scheme << " m " << m << " n " << n << " k " << k);
          Padded x(uniform({m, k}, 3)), out(m, n, 3);
          product(x.view(), weight, uniform({n}, 4), false, out.view());
          EXPECT_TRUE(out.padding_is_intact());
        }
      }
    }
  }
}

TEST_P(PackedProductTest, EveryNumberOfRows) {
  for (const char* scheme : {"int4-g128", "int4-g32-asym", "int8-ch", "nf4-g64"}) {
    const PackedMatrix weight = pack(random_packed(scheme, 40, 200, 5));
    for (const int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 31, 32, 33, 65}) {
      SCOPED_TRACE(testing::Message() << scheme << " m " << m);
      Tensor out = uniform({m, 40}, 6);
      product(uniform({m, 200}, 7), weight, uniform({40}, 8), true, out);
    }
  }
}

// The four linears of a Llama block, an eighth to a thirty-second of the width of 8B.
TEST_P(PackedProductTest, ShapesOfABlock) {
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{384, 256}, {256, 256}, {1792, 256}, {256, 896}}) {
    for (const char* scheme : {"int4-g128", "int8-g128-asym"}) {
      const PackedMatrix weight = pack(random_packed(scheme, n, k, 9));
      for (const int64_t m : {1, 4, 20}) {
        SCOPED_TRACE(testing::Message() << scheme << " m " << m << " n " << n << " k " << k);
        product(uniform({m, k}, 10), weight, Tensor(), false, zeros(DType::f32, {m, n}));
      }
    }
  }
}

// Long rows: several slices of inputs in packed_vector, several runs per tile in packed_fragments. The
// counters of arrivals must be back at zero for the second product.
TEST_P(PackedProductTest, SumsOverSeveralBlocksAreRepeatable) {
  for (const char* scheme : {"int4-g128", "int8-g64-asym", "int4-g32-asymf"}) {
    const PackedMatrix weight = pack(random_packed(scheme, 33, 5000, 11));
    for (const int64_t m : {1, 9, 16, 17, 40}) {
      SCOPED_TRACE(testing::Message() << scheme << " m " << m);
      const Tensor x = uniform({m, 5000}, 12);
      const Tensor first = product(x, weight, Tensor(), false, zeros(DType::f32, {m, 33}));
      const Tensor second = product(x, weight, Tensor(), false, zeros(DType::f32, {m, 33}));
      EXPECT_TRUE(same_bits(first, second));
    }
  }
}

// Act-order: columns of a group anywhere in the row, also in very different numbers.
TEST_P(PackedProductTest, GroupIndex) {
  for (const char* scheme : {"int4-g32-asym", "int8-g24"}) {
    QuantizedTensor weight = random_packed(scheme, 35, 200, 13);
    weight.group_index = *Tensor::allocate(DType::i32, {200});
    const auto groups = int32_t(weight.scheme.groups(200));
    for (const bool even : {true, false}) {
      for (int32_t i = 0; i < 200; ++i)
        weight.group_index.mutable_data<int32_t>()[i] =
            even ? i * 7 % groups : std::min(i * i / 900, groups - 1);
      const PackedMatrix packed = pack(weight);
      for (const int64_t m : {1, 18, 200}) {
        SCOPED_TRACE(testing::Message() << scheme << " m " << m << (even ? " even" : " uneven"));
        product(uniform({m, 200}, 14), packed, Tensor(), false, zeros(DType::f32, {m, 35}));
      }
    }
  }
}

}  // namespace
}  // namespace pare::cuda
