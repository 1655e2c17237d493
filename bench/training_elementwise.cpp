// bench/training_elementwise.cpp: training apart from its products: optimizers, gradients of norms and
// activations, rounding to a grid of codes. All against the rate of memory; each result is compared with the
// reference backend.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "bench/cases.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/reference/reference_backend.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "engine/tensor/training_backend.h"

namespace pare::bench {
namespace {

using Floats = std::vector<float>;

Floats random_floats(int64_t count, float low, float high, uint32_t stream) {
  const Random random(8, RandomPurpose::test_data, stream);
  Floats values(static_cast<size_t>(count));
  parallel_ranges(count, 65'536, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      values[size_t(i)] = low + (high - low) * random.uniform(uint64_t(i));
  });
  return values;
}

// A matrix in the roles that the operations of training have.
struct Problem {
  int64_t rows, columns;
  std::unique_ptr<Backend> cpu = make_cpu_backend(), reference = make_reference_backend();
  Floats a, b, c, d, e;  // [rows, columns]
  Floats small, scales, scratch;

  Problem(int64_t row_count, int64_t column_count)
      : rows(row_count),
        columns(column_count),
        a(random_floats(rows * columns, -1.0f, 1.0f, 1)),
        b(random_floats(rows * columns, -1.0f, 1.0f, 2)),
        c(random_floats(rows * columns, 0.0f, 1.0f, 3)),
        d(random_floats(rows * columns, -1.0f, 1.0f, 6)),
        e(size_t(rows * columns)),
        small(random_floats(columns, 0.5f, 1.5f, 4)),
        scales(random_floats(rows * ((columns + 63) / 64), 0.1f, 0.2f, 5)),
        scratch(size_t(4 * rows)) {}
  int64_t count() const { return rows * columns; }
};

using Step = std::function<void(Problem&, TrainingBackend&)>;

// `results` are those members that `step` writes; they start anew for the reference. `bytes` per element.
Case training_case(std::string_view op, int64_t rows, int64_t columns, double bytes, double bound, Step step,
                   std::vector<Floats Problem::*> results, Probe limit = Probe::cpu_copy) {
  auto p = std::make_shared<Problem>(rows, columns);
  Case made{.kernel = fmt::format("{} {}", cpu::isa_name(cpu::best_isa()), op),
            .bytes = bytes * double(p->count()),
            .limit = limit};
  made.run = [p, step] { step(*p, *p->cpu->training()); };
  made.verify = [p, step, results, bound] {
    std::vector<Floats> before, got;
    for (const auto member : results) before.push_back((*p).*member);
    step(*p, *p->cpu->training());
    for (size_t i = 0; i < results.size(); ++i) {
      got.push_back((*p).*results[i]);
      (*p).*results[i] = before[i];
    }
    step(*p, *p->reference->training());
    double worst = 0.0;
    for (size_t i = 0; i < results.size(); ++i) {
      const Floats& want = (*p).*results[i];
      for (size_t k = 0; k < want.size(); ++k)
        worst = std::max(worst, std::fabs(double(got[i][k]) - double(want[k])));
    }
    return worst / bound;
  };
  return made;
}

void adamw(Problem& p, TrainingBackend& training) {  // w a, m b, v c, gradient d
  training.adamw({.w = p.a.data(),
                  .m = p.b.data(),
                  .v = p.c.data(),
                  .gradient = p.d.data(),
                  .kept = nullptr,
                  .count = p.count(),
                  .columns = 0,
                  .row_bytes = 0,
                  .gradient_scale = 1.0f,
                  .lr = 1e-4f,
                  .beta1 = 0.9f,
                  .beta2 = 0.95f,
                  .eps = 1e-8f,
                  .decay = 0.1f,
                  .correction1 = 0.5f,
                  .correction2 = 0.5f});
}

void gated_silu(Problem& p, TrainingBackend& training) {
  training.gated_activation_backward({.gate = p.a.data(),
                                      .up = p.b.data(),
                                      .dout = p.c.data(),
                                      .dgate = p.d.data(),
                                      .dup = p.e.data(),
                                      .rows = p.rows,
                                      .columns = p.columns,
                                      .gate_stride = p.columns,
                                      .up_stride = p.columns,
                                      .dout_stride = p.columns,
                                      .dgate_stride = p.columns,
                                      .dup_stride = p.columns,
                                      .kind = Activation::silu});
}

void rms_norm(Problem& p, TrainingBackend& training) {
  training.rms_norm_backward({.x = p.a.data(),
                              .gain = p.scales.data(),
                              .dout = p.b.data(),
                              .dx = p.d.data(),
                              .dgain = p.small.data(),
                              .tokens = p.rows,
                              .channels = p.columns,
                              .x_stride = p.columns,
                              .dout_stride = p.columns,
                              .dx_stride = p.columns,
                              .eps = 1e-5f,
                              .gain_plus_one = false,
                              .accumulate = false,
                              .scratch = p.scratch.data()});
}

void fake_quantize(Problem& p, TrainingBackend& training) {
  training.fake_quantize({.weight = p.a.data(),
                          .scales = p.scales.data(),
                          .zeros = nullptr,
                          .out = p.d.data(),
                          .rows = p.rows,
                          .columns = p.columns,
                          .group_width = 64,
                          .low = -8.0f,
                          .high = 7.0f});
}

void fake_quantize_backward(Problem& p, TrainingBackend& training) {
  training.fake_quantize_backward({.weight = p.a.data(),
                                   .scales = p.scales.data(),
                                   .zeros = nullptr,
                                   .dout = p.b.data(),
                                   .dweight = p.d.data(),
                                   .dscales = nullptr,
                                   .rows = p.rows,
                                   .columns = p.columns,
                                   .group_width = 64,
                                   .low = -8.0f,
                                   .high = 7.0f,
                                   .step_gradient = 0.01f});
}

}  // namespace

std::vector<NamedCase> training_elementwise_cases() {
  const int64_t n = 4'096;
  return {
      {fmt::format("train_adamw/{0}x{0}", n),
       [=] {
         return training_case("adamw", n, n, 28.0, 1e-6, adamw, {&Problem::a, &Problem::b, &Problem::c});
       }},
      {"train_gated_silu/8192x1536",
       [] {
         return training_case("gated_activation_backward", 8'192, 1'536, 20.0, 2e-6, gated_silu,
                              {&Problem::d, &Problem::e});
       }},
      {"train_rms_norm/16384x576",
       [] { return training_case("rms_norm_backward", 16'384, 576, 12.0, 4e-6, rms_norm, {&Problem::d}); }},
      {fmt::format("train_fake_quantize/int4-g64/{0}x{0}", n),
       [=] {
         return training_case("fake_quantize", n, n, 8.0, 1e-30, fake_quantize, {&Problem::d});  // 0
       }},
      {fmt::format("train_fake_quantize_backward/int4-g64/{0}x{0}", n), [=] {
         return training_case("fake_quantize_backward", n, n, 12.0, 1e-30, fake_quantize_backward,
                              {&Problem::d});
       }}};
}

}  // namespace pare::bench
