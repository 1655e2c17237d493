#include "evaluate/linear_time.h"

#include <algorithm>
#include <ctime>
#include <vector>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/ops.h"

namespace pare {
namespace {

// Of this thread, so that other work on the machine is not counted.
double processor_seconds() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

// All work on the calling thread while it lives.
class OneThread {
 public:
  OneThread() : threads_(thread_count()) { set_thread_count(1); }
  ~OneThread() { set_thread_count(threads_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int threads_;
};

}  // namespace

Result<double> LinearTimer::measure(int64_t out, int64_t in) {
  PARE_ASSERT(out > 0 && in > 0 && options_.repetitions > 0, "[linear_time] {} x {}", out, in);
  if (const auto known = measured_.find({out, in}); known != measured_.end()) return known->second;
  const uint64_t bytes = uint64_t(out) * uint64_t(in) * 2;
  const int64_t copies = std::clamp<int64_t>(int64_t(options_.bytes_at_least / bytes), 2, 512);
  PARE_TRY(const Tensor weights, Tensor::allocate(DType::bf16, {copies * out, in}, options_.device));
  std::fill_n(weights.mutable_data<uint16_t>(), weights.numel(),
              uint16_t(0x3C00));  // touched: not shared zeros
  PARE_TRY(const Tensor x, Tensor::allocate(DType::f32, {1, in}, options_.device));
  PARE_TRY(Tensor y, Tensor::allocate(DType::f32, {1, out}, options_.device));
  PARE_TRY(Workspace workspace,
           Workspace::reserve(ops::matmul_workspace_bytes(options_.device, 1, out, in), options_.device));
  const std::function<double()> clock = options_.seconds ? options_.seconds : processor_seconds;
  const OneThread one;
  std::vector<double> seconds;
  for (int repetition = -1; repetition < options_.repetitions; ++repetition) {  // the first warms up
    const double begin = clock();
    for (int64_t copy = 0; copy < copies; ++copy)
      ops::matmul(x, weights.rows(copy * out, (copy + 1) * out), Tensor(), /*accumulate=*/false, y,
                  workspace);
    if (repetition >= 0) seconds.push_back((clock() - begin) / double(copies));
  }
  return measured_[{out, in}] = *std::min_element(seconds.begin(), seconds.end());
}

}  // namespace pare
