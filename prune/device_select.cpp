#include "prune/device_select.h"

#include "engine/core/assert.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/selection_backend.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

using Kind = SparsityPattern::Kind;

Result<Tensor> bytes_on(Backend& backend, size_t bytes) {
  PARE_TRY(std::shared_ptr<Storage> storage, backend.allocate(bytes));
  return Tensor(std::move(storage), 0, DType::u8, {int64_t(bytes)});
}

}  // namespace

Result<std::optional<Mask>> select_on_device(Device device, const Tensor& weight,
                                             std::span<const float> norms, const PruneTarget& target,
                                             Scope scope, std::optional<int64_t> count,
                                             std::string_view name) {
  if (device.is_host() || weight.numel() == 0) return std::optional<Mask>();
  Backend& backend = backend_for(device);
  SelectionBackend* selection = backend.selection();
  if (selection == nullptr) return std::optional<Mask>();
  PARE_ASSERT(weight.is_contiguous(), "[select] {}", weight.shape().text());
  const int64_t out = weight.size(0), in = weight.size(1), row_bytes = (in + 7) / 8;
  PARE_ASSERT(norms.empty() || int64_t(norms.size()) == in, "[select] {} norms for {}", norms.size(), in);
  PARE_TRY(const Tensor there, moved(weight, device));
  Tensor norms_there;
  if (!norms.empty()) {
    PARE_TRY(Tensor here, Tensor::allocate(DType::f32, {in}));
    std::copy(norms.begin(), norms.end(), here.mutable_data<float>());
    PARE_TRY(norms_there, moved(here, device));
  }
  PARE_TRY(const Tensor mask, bytes_on(backend, size_t(out * row_bytes)));
  const SelectionScores scores{.weight = there.raw(),
                               .dtype = weight.dtype(),
                               .norms = norms_there.defined() ? norms_there.data<float>() : nullptr,
                               .rows = out,
                               .columns = in,
                               .stride = in};
  uint8_t* bits = mask.mutable_data<uint8_t>();
  const SparsityPattern& pattern = target.pattern;
  const bool is_matrix = count || (pattern.kind == Kind::unstructured && scope == Scope::layer);
  Tensor workspace;
  if (is_matrix) {
    PARE_TRY(workspace, bytes_on(backend, selection->select_matrix_workspace_bytes(out)));
    selection->select_matrix({.scores = scores,
                              .count = count ? *count : target.sparsity.count(out * in),
                              .mask = bits,
                              .workspace = workspace.mutable_raw()});
  } else if (pattern.kind == Kind::n_of_m) {
    selection->select_n_of_m(
        {.scores = scores, .n = pattern.n, .m = pattern.m, .mask = bits, .indices = nullptr});
  } else if (pattern.kind == Kind::block) {
    const int64_t rows = pattern.block_rows, columns = pattern.block_columns;
    const int64_t across = (in + columns - 1) / columns, down = (out + rows - 1) / rows;
    const bool is_balanced = scope == Scope::row;
    PARE_TRY(workspace, bytes_on(backend, selection->select_blocks_workspace_bytes(out, in, rows, columns)));
    selection->select_blocks({.scores = scores,
                              .block_rows = rows,
                              .block_columns = columns,
                              .count = target.sparsity.count(is_balanced ? across : across * down),
                              .is_balanced = is_balanced,
                              .mask = bits,
                              .workspace = workspace.mutable_raw()});
  } else {
    selection->select_rows({.scores = scores, .count = target.sparsity.count(in), .mask = bits});
  }
  PARE_TRY(Tensor here, Tensor::allocate(DType::u8, {out, row_bytes}));
  PARE_CHECK(backend.download(here.mutable_raw(), mask.raw(), mask.size_bytes()));
  Mask chosen(std::move(here), out, in);
  if (!count) PARE_CHECK(chosen.verify(pattern, name));
  return std::optional<Mask>(std::move(chosen));
}

}  // namespace pare
