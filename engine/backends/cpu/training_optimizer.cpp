// adamw, sgd, sum_of_squares, and rounding to a grid of codes with its gradient
#include <array>

#include "engine/backends/cpu/kernels.h"
#include "engine/backends/cpu/pieces.h"
#include "engine/backends/cpu/training_class.h"

namespace pare::cpu {
namespace {

// Elements, or with a mask whole rows: a mask's rows start on a byte.
template <typename Args, typename Kernel>
void for_parameters(const Args& a, Kernel kernel) {
  const int64_t width = a.kept != nullptr ? a.columns : 1;
  for_rows(a.count / width, width, [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
}

}  // namespace

void CpuTraining::adamw(const AdamWArgs& a) {
  for_parameters(a, kernels(isa_).adamw);
}

void CpuTraining::sgd(const SgdArgs& a) {
  for_parameters(a, kernels(isa_).sgd);
}

// Partial sums of pieces that follow from the count, added in their order.
double CpuTraining::sum_of_squares(const float* x, int64_t count) {
  constexpr int64_t kPieces = 256;
  const int64_t width = std::max(kPieceElements, (count + kPieces - 1) / kPieces);
  const int64_t pieces = (count + width - 1) / width;
  std::array<double, size_t{kPieces}> sums{};
  const Kernels& k = kernels(isa_);
  for_rows(pieces, width, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t first = piece * width;
      sums[size_t(piece)] = k.sum_of_squares(x + first, std::min(width, count - first));
    }
  });
  double total = 0.0;
  for (int64_t piece = 0; piece < pieces; ++piece) total += sums[size_t(piece)];
  return total;
}

void CpuTraining::fake_quantize(const FakeQuantizeArgs& a) {
  const Kernels& k = kernels(isa_);
  for_rows(a.rows, a.columns, [&](int64_t begin, int64_t end) { k.fake_quantize(a, begin, end); });
}

void CpuTraining::fake_quantize_backward(const FakeQuantizeBackwardArgs& a) {
  const Kernels& k = kernels(isa_);
  for_rows(a.rows, a.columns, [&](int64_t begin, int64_t end) { k.fake_quantize_backward(a, begin, end); });
}

}  // namespace pare::cpu
