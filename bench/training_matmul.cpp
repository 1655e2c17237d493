// bench/training_matmul.cpp: the three products of a linear layer in training, out = x W^T and its two
// gradients, at equal work, against the multiply-add rate and OpenBLAS (single-threaded build, one piece per
// thread of our pool).
#include <cblas.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "bench/cases.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "engine/tensor/training_backend.h"

namespace pare::bench {
namespace {

enum class Part { forward, input_gradient, weight_gradient };

std::vector<float> random_floats(int64_t count, uint32_t stream) {
  const Random random(7, RandomPurpose::test_data, stream);
  std::vector<float> values(static_cast<size_t>(count));
  parallel_ranges(count, 65536, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) values[size_t(i)] = 2.0f * random.uniform(uint64_t(i)) - 1.0f;
  });
  return values;
}

// One of x [m, k], weight [n, k] and out [m, n] is made from the other two.
struct Problem {
  Part part;
  int64_t m, n, k;
  std::vector<float> x, weight, out;
  std::shared_ptr<Storage> workspace;

  Problem(Part which, int64_t tokens, int64_t outputs, int64_t inputs)
      : part(which),
        m(tokens),
        n(outputs),
        k(inputs),
        x(random_floats(m * k, 1)),
        weight(random_floats(n * k, 2)),
        out(random_floats(m * n, 3)) {
    Backend& backend = backend_for(Device::cpu());
    const size_t bytes = part == Part::forward ? backend.matmul_workspace_bytes(m, n, k)
                         : part == Part::input_gradient
                             ? backend.training()->matmul_input_backward_workspace_bytes(m, n, k)
                             : backend.training()->matmul_weight_backward_workspace_bytes(m, n, k);
    workspace = Storage::allocate(std::max<size_t>(64, bytes), Device::cpu()).value();
  }

  void run() {
    Backend& backend = backend_for(Device::cpu());
    switch (part) {
      case Part::forward:
        return backend.matmul({.x = x.data(),
                               .weight = weight.data(),
                               .weight_dtype = DType::f32,
                               .bias = nullptr,
                               .out = out.data(),
                               .m = m,
                               .n = n,
                               .k = k,
                               .x_stride = k,
                               .out_stride = n,
                               .accumulate = false,
                               .workspace = workspace->mutable_data()});
      case Part::input_gradient:
        return backend.training()->matmul_input_backward({.dout = out.data(),
                                                          .weight = weight.data(),
                                                          .weight_dtype = DType::f32,
                                                          .dx = x.data(),
                                                          .m = m,
                                                          .n = n,
                                                          .k = k,
                                                          .dout_stride = n,
                                                          .dx_stride = k,
                                                          .accumulate = false,
                                                          .workspace = workspace->mutable_data()});
      case Part::weight_gradient:
        return backend.training()->matmul_weight_backward({.x = x.data(),
                                                           .dout = out.data(),
                                                           .dweight = weight.data(),
                                                           .dbias = nullptr,
                                                           .m = m,
                                                           .n = n,
                                                           .k = k,
                                                           .x_stride = k,
                                                           .dout_stride = n,
                                                           .workspace = workspace->mutable_data()});
    }
  }

  // Whole rows of tokens (of outputs for a weight) per thread: one call where there is one thread.
  void run_openblas() {
    const int64_t rows = part == Part::weight_gradient || part == Part::forward ? n : m;
    parallel_ranges(rows, (rows + thread_count() - 1) / thread_count(), [&](int64_t begin, int64_t end) {
      const int count = int(end - begin), tokens = int(m), outputs = int(n), inputs = int(k);
      switch (part) {
        case Part::forward:
          return cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, tokens, count, inputs, 1.0f, x.data(),
                             inputs, weight.data() + begin * k, inputs, 0.0f, out.data() + begin, outputs);
        case Part::input_gradient:
          return cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, count, inputs, outputs, 1.0f,
                             out.data() + begin * n, outputs, weight.data(), inputs, 0.0f,
                             x.data() + begin * k, inputs);
        case Part::weight_gradient:
          return cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, count, inputs, tokens, 1.0f,
                             out.data() + begin, outputs, x.data(), inputs, 1.0f, weight.data() + begin * k,
                             inputs);
      }
    });
  }

  // Error of some results against sums in double, as a share of the bound for float sums of so many terms.
  double error_share() {
    if (part == Part::weight_gradient) std::ranges::fill(weight, 0.0f);
    run();
    // result[i, j] = sum over t of left[i, t] * right[t, j]
    struct Matrix {
      const float* data;
      int64_t row_step, column_step;
      double at(int64_t i, int64_t j) const { return double(data[i * row_step + j * column_step]); }
    };
    const Matrix tokens{x.data(), k, 1}, weights{weight.data(), k, 1}, outputs{out.data(), n, 1};
    const Matrix weights_turned{weight.data(), 1, k}, outputs_turned{out.data(), 1, n};
    const bool is_forward = part == Part::forward, is_input = part == Part::input_gradient;
    const Matrix left = is_forward ? tokens : is_input ? outputs : outputs_turned;
    const Matrix right = is_forward ? weights_turned : is_input ? weights : tokens;
    const Matrix result = is_forward ? outputs : is_input ? tokens : weights;
    const int64_t rows = part == Part::weight_gradient ? n : m, columns = is_forward ? n : k;
    const int64_t terms = is_forward ? k : is_input ? n : m;
    double worst = 0.0;
    for (int64_t i = 0; i < rows; i += std::max<int64_t>(1, rows / 37)) {
      for (int64_t j = 0; j < columns; j += std::max<int64_t>(1, columns / 13)) {
        double sum = 0.0, size = 0.0;
        for (int64_t t = 0; t < terms; ++t) {
          const double term = left.at(i, t) * right.at(t, j);
          sum += term;
          size += std::fabs(term);
        }
        const double bound = (4.0 + double(terms) / 4.0) * 0x1p-24 * size;
        worst = std::max(worst, std::fabs(result.at(i, j) - sum) / bound);
      }
    }
    return worst;
  }
};

Case product_case(Part part, int64_t m, int64_t n, int64_t k) {
  auto p = std::make_shared<Problem>(part, m, n, k);
  Case c{.kernel = "dense_gemm", .bytes = 4.0 * double(m * k + n * k + m * n)};
  c.operations = 2.0 * double(m) * double(n) * double(k);
  c.limit = Probe::cpu_fma_f32;
  c.verify = [p] { return p->error_share(); };
  c.run = [p] { p->run(); };
  c.peer = {.name = "openblas-f32", .run = [p] { p->run_openblas(); }};
  return c;
}

}  // namespace

std::vector<NamedCase> training_matmul_cases() {
  std::vector<NamedCase> cases;
  constexpr int64_t kTokens = 2048;
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{576, 576}, {1536, 576}, {576, 1536}, {49152, 576}}) {
    for (const auto& [name, part] : {std::pair{"forward", Part::forward},
                                     {"dx", Part::input_gradient},
                                     {"dweight", Part::weight_gradient}}) {
      cases.push_back({fmt::format("train_gemm/f32/{}x{}/m{}/{}", n, k, kTokens, name),
                       [part = part, n = n, k = k] { return product_case(part, kTokens, n, k); }});
    }
  }
  return cases;
}

}  // namespace pare::bench
