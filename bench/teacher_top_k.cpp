// bench/teacher_top_k.cpp: rows of a teacher's logits as records of its cache: the k likeliest ids, the mass
// of the others, packing; against the same by std::nth_element and std::exp.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "bench/cases.h"
#include "distill/top_k_record.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"

namespace pare::bench {
namespace {

struct Problem {
  int64_t rows, vocabulary, k;
  TopKRecord record;
  std::vector<float> logits;
  std::vector<std::byte> records;

  Problem(int64_t m, int64_t v, int64_t ids)
      : rows(m),
        vocabulary(v),
        k(ids),
        record(v, ids, false),
        logits(size_t(m * v)),
        records(size_t(m) * record.bytes()) {
    const Random random(7, RandomPurpose::test_data);
    parallel_ranges(rows * vocabulary, 65536, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) logits[size_t(i)] = 3.0f * random.normal(uint64_t(i));
    });
  }

  void run() {
    parallel_ranges(rows, 8, [&](int64_t begin, int64_t end) {
      TopKFinder finder(vocabulary, k, 1.0, DType::f16);
      TopKRow row;
      for (int64_t r = begin; r < end; ++r) {
        if (!finder.find(logits.data() + r * vocabulary, row)) continue;
        record.write(row, std::span(records).subspan(size_t(r) * record.bytes(), record.bytes()));
      }
    });
  }

  std::vector<int32_t> plain_ids(int64_t r, double& log_sum) const {
    const float* x = logits.data() + r * vocabulary;
    std::vector<int32_t> order(static_cast<size_t>(vocabulary));
    std::iota(order.begin(), order.end(), 0);
    std::nth_element(order.begin(), order.begin() + k, order.end(),
                     [&](int32_t a, int32_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); });
    order.resize(size_t(k));
    std::sort(order.begin(), order.end());
    const float largest = *std::max_element(x, x + vocabulary);
    double sum = 0.0;
    for (int64_t i = 0; i < vocabulary; ++i) sum += double(std::exp(x[i] - largest));
    log_sum = std::log(sum);
    return order;
  }

  void run_plain() const {
    parallel_ranges(rows, 8, [&](int64_t begin, int64_t end) {
      double log_sum = 0.0;
      for (int64_t r = begin; r < end; ++r) static_cast<void>(plain_ids(r, log_sum));
    });
  }

  // 0 where the ids are the same, and the sums up to what rounding the logits to f16 may change.
  double error_share() {
    run();
    double worst = 0.0;
    for (int64_t r = 0; r < rows; r += 17) {
      TopKRow row;
      double log_sum = 0.0;
      const std::vector<int32_t> ids = plain_ids(r, log_sum);
      const auto bytes =
          std::span<const std::byte>(records).subspan(size_t(r) * record.bytes(), record.bytes());
      if (!record.read(bytes, row) || row.ids != ids) return 2.0;
      worst = std::max(worst, std::fabs(double(row.log_sum) - log_sum) / (0x1p-11 * 16.0));
    }
    return worst;
  }
};

Case top_k_case(int64_t rows, int64_t vocabulary, int64_t k) {
  auto p = std::make_shared<Problem>(rows, vocabulary, k);
  Case c;
  c.kernel = "top_k_f16";
  c.bytes = 4.0 * double(rows * vocabulary);
  c.tokens = double(rows);
  c.limit = Probe::cpu_read;
  c.verify = [p] { return p->error_share(); };
  c.run = [p] { p->run(); };
  c.peer = {.name = "std::nth_element", .run = [p] { p->run_plain(); }};
  return c;
}

}  // namespace

std::vector<NamedCase> teacher_top_k_cases() {
  std::vector<NamedCase> cases;
  for (const int64_t vocabulary : {32'000, 49'152, 151'936})
    cases.push_back({fmt::format("teacher_top_k/512x{}/k64", vocabulary),
                     [vocabulary] { return top_k_case(512, vocabulary, 64); }});
  return cases;
}

}  // namespace pare::bench
