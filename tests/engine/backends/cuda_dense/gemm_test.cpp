// gemm(): every way to store two factors, offsets that spoil alignment, bytes, and its place in a graph.
#include "engine/backends/cuda/gemm.h"

#include <cublasLt.h>

#include <algorithm>

#include "tests/engine/backends/cuda_dense/support.h"

namespace pare::test {
namespace {

// a [m, k], b [k, n] at (row, column) whichever way they are stored.
template <typename T>
double at(const std::vector<T>& data, int64_t offset, int64_t stride, bool transposed, int64_t row,
          int64_t column) {
  const T value = data[size_t(offset + (transposed ? column * stride + row : row * stride + column))];
  if constexpr (std::is_same_v<T, uint16_t>) return double(bf16_to_float(value));
  return double(value);
}

TEST(CudaGemm, EveryStorageAndAlignment) {
  const auto backend = open_backend(cuda::MathMode::bf16);
  constexpr int64_t m = 5, n = 7, k = 6;
  for (const bool a_turned : {false, true}) {
    for (const bool b_turned : {false, true}) {
      for (const int64_t offset :
           {0, 1, 4}) {  // elements: the same shape must not reuse a stricter algorithm
        for (const bool has_bias : {false, true}) {
          SCOPED_TRACE(testing::Message() << a_turned << b_turned << " offset " << offset);
          const int64_t a_stride = (a_turned ? m : k) + 3, b_stride = (b_turned ? k : n) + 2,
                        out_stride = n + 1;
          const auto a = as_bf16(integers(200, 1)), b = as_bf16(integers(200, 2));
          const auto bias = integers(n + 8, 3), before = integers(m * out_stride + 8, 4);
          std::vector<float> out = before;
          cuda::gemm(backend->context(), "test",
                     {.type = DType::bf16,
                      .a = {a.data() + offset, a_stride, a_turned},
                      .b = {b.data() + offset, b_stride, b_turned},
                      .out = out.data() + offset,
                      .bias = has_bias ? bias.data() + offset : nullptr,
                      .m = m,
                      .n = n,
                      .k = k,
                      .out_stride = out_stride,
                      .alpha = 2.0f,
                      .accumulate = offset > 0});
          ASSERT_TRUE(backend->finish().has_value());
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
              double want = 0.0;
              for (int64_t l = 0; l < k; ++l)
                want +=
                    2.0 * at(a, offset, a_stride, a_turned, i, l) * at(b, offset, b_stride, b_turned, l, j);
              if (has_bias) want += double(bias[size_t(offset + j)]);
              const size_t place = size_t(offset + i * out_stride + j);
              if (offset > 0) want += double(before[place]);
              ASSERT_EQ(double(out[place]), want) << i << "," << j;
            }
            ASSERT_EQ(out[size_t(offset + i * out_stride + n)], before[size_t(offset + i * out_stride + n)]);
          }
        }
      }
    }
  }
}

TEST(CudaGemm, BytesToWholeNumbers) {
  const auto backend = open_backend(cuda::MathMode::bf16);
  const auto drawn = integers(400, 5);
  std::vector<int8_t> a(drawn.begin(), drawn.begin() + 200), b(drawn.begin() + 200, drawn.end());
  std::vector<int32_t> out(15, 7);
  cuda::gemm(backend->context(), "test",
             {.type = DType::i8,
              .a = {a.data(), 24, false},
              .b = {b.data(), 20, true},
              .out = out.data(),
              .bias = nullptr,
              .m = 3,
              .n = 5,
              .k = 20,
              .out_stride = 5,
              .alpha = 1.0f,
              .accumulate = true});
  ASSERT_TRUE(backend->finish().has_value());
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < 5; ++j) {
      int want = 7;
      for (int64_t l = 0; l < 20; ++l) want += a[size_t(i * 24 + l)] * b[size_t(j * 20 + l)];
      ASSERT_EQ(out[size_t(i * 5 + j)], want);
    }
  }
}

// Descriptions are made once: a captured product replays with what its inputs hold then.
TEST(CudaGemm, IsPartOfAGraph) {
  const auto backend = open_backend(cuda::MathMode::bf16);
  cuda::Context& context = backend->context();
  std::vector<float> x = integers(16 * 8, 6), weight = integers(4 * 8, 7), out(16 * 4);
  std::vector<uint16_t> working = as_bf16(weight), workspace(backend->matmul_workspace_bytes(16, 4, 8));
  const MatmulArgs product{.x = x.data(),
                           .weight = working.data(),
                           .weight_dtype = DType::bf16,
                           .bias = nullptr,
                           .out = out.data(),
                           .m = 16,
                           .n = 4,
                           .k = 8,
                           .x_stride = 8,
                           .out_stride = 4,
                           .accumulate = false,
                           .workspace = workspace.data()};
  backend->matmul(product);  // opens the library
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(context.stream(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
  context.set_capturing(true);
  backend->matmul(product);
  context.set_capturing(false);
  ASSERT_EQ(cudaStreamEndCapture(context.stream(), &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&replay, graph), cudaSuccess);
  const std::vector<float> others = integers(16 * 8, 8);
  std::copy(others.begin(), others.end(), x.begin());  // in place: the graph holds addresses
  std::fill(out.begin(), out.end(), -1.0f);
  ASSERT_EQ(cudaGraphLaunch(replay, context.stream()), cudaSuccess);
  ASSERT_TRUE(backend->finish().has_value());
  for (size_t i = 0; i < 16; ++i) {
    for (size_t j = 0; j < 4; ++j) {
      float want = 0.0f;
      for (size_t l = 0; l < 8; ++l) want += x[i * 8 + l] * weight[j * 8 + l];
      ASSERT_EQ(out[i * 4 + j], want);
    }
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
}

}  // namespace
}  // namespace pare::test
