#include "cli/sparse_kernels.h"

#include "engine/backends/cpu/sparse/choice.h"

namespace pare::cli {

std::string sparse_kernel_text(const StoredTensor& tensor) {
  if (!tensor.is_sparse() || tensor.shape.rank() != 2) return {};
  const Result<SparsityPattern> pattern = SparsityPattern::parse(tensor.pattern);
  if (!pattern) return {};
  const int64_t all = tensor.shape.numel();
  SparseSummary summary{.pattern = *pattern,
                        .out = tensor.shape[0],
                        .in = tensor.shape[1],
                        .density = tensor.kept && all > 0 ? double(*tensor.kept) / double(all) : 1.0,
                        .value_dtype = tensor.scheme ? DType::u8 : tensor.dtype,
                        .scheme = tensor.scheme,
                        .rounds_inputs = tensor.activation.has_value()};
  return cpu::choose_sparse(cpu::best_isa(), summary).reason;
}

std::map<std::string, int64_t> sparse_kernel_counts(const WeightSource& source) {
  std::map<std::string, int64_t> counts;
  for (const StoredTensor& tensor : source.tensors()) {
    const std::string text = sparse_kernel_text(tensor);
    if (!text.empty()) ++counts[text];
  }
  return counts;
}

}  // namespace pare::cli
