#include "engine/backends/cpu/sparse/tune.h"

#include <time.h>

#include <algorithm>
#include <cstring>

#include "engine/backends/cpu/matmul/matmul.h"
#include "engine/backends/cpu/sparse/sample.h"
#include "engine/backends/cpu/sparse/sparse.h"
#include "engine/core/parallel.h"

namespace pare::cpu {
namespace {

constexpr int64_t kSides[kSizeClasses] = {1024, 2048};  // square matrices of each class
constexpr size_t kBeyondCache = size_t{96} << 20;       // bytes walked before a copy is used again
constexpr int kRounds = 7;

Result<Tensor> copied(const Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  PARE_TRY(Tensor copy, Tensor::allocate(tensor.dtype(), tensor.shape()));
  std::memcpy(copy.mutable_raw(), tensor.raw(), tensor.size_bytes());
  return copy;
}

Result<std::vector<PackedMatrix>> copies_of(const PackedMatrix& packed) {
  std::vector<PackedMatrix> copies{packed};
  while (copies.size() * packed.size_bytes() < kBeyondCache) {
    PackedMatrix copy = packed;
    PARE_TRY(copy.codes, copied(packed.codes));
    PARE_TRY(copy.scales, copied(packed.scales));
    copies.push_back(std::move(copy));
  }
  return copies;
}

// Of this thread, so that other work on the machine is not counted.
double processor_seconds() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

// One token with each of several copies of a matrix.
struct Walk {
  Isa isa;
  int64_t side;
  std::vector<float> x, out;
  std::shared_ptr<Storage> workspace;
  std::vector<Tensor> dense;
  std::vector<PackedMatrix> packed;

  void run() {
    const auto with = [&](auto args) {
      args.x = x.data();
      args.out = out.data();
      args.m = 1;
      args.n = args.k = args.x_stride = args.out_stride = side;
      args.workspace = workspace->mutable_data();
      return args;
    };
    for (const Tensor& weight : dense) {
      MatmulArgs args = with(MatmulArgs{});
      args.weight = weight.raw();
      args.weight_dtype = weight.dtype();
      matmul(isa, args);
    }
    for (const PackedMatrix& weight : packed) {
      PackedMatmulArgs args = with(PackedMatmulArgs{});
      args.weight = &weight;
      weight.pattern ? sparse_matmul(isa, *sparse_kernels(isa).front(), args) : packed_matmul(isa, args);
    }
  }
  double seconds_per_copy() {
    const double begin = processor_seconds();
    run();
    return (processor_seconds() - begin) / double(dense.size() + packed.size());
  }
};

Result<Walk> make_walk(Isa isa, int64_t side) {
  Walk walk{.isa = isa,
            .side = side,
            .x = std::vector<float>(size_t(side), 0.5f),
            .out = std::vector<float>(size_t(side)),
            .workspace = nullptr,
            .dense = {},
            .packed = {}};
  PARE_TRY(walk.workspace, Storage::allocate(matmul_workspace_bytes(isa, 1, side, side) + 64, Device::cpu()));
  return walk;
}

// By the best round of each, taken in turns: whatever else the machine does only makes rounds longer.
double measured_ratio(Walk& dense, Walk& sparse) {
  dense.run();
  sparse.run();
  double peer = dense.seconds_per_copy(), ours = sparse.seconds_per_copy();
  for (int round = 1; round < kRounds; ++round) {
    peer = std::min(peer, dense.seconds_per_copy());
    ours = std::min(ours, sparse.seconds_per_copy());
  }
  return peer / ours;
}

DType dtype_of(SparseForm form) {
  switch (form) {
    case SparseForm::of_four_f32:
    case SparseForm::masked_f32:
      return DType::f32;
    case SparseForm::of_four_bf16:
    case SparseForm::masked_bf16:
      return DType::bf16;
    default:
      return DType::f16;
  }
}

// All kinds that share a dense peer (the same element type) at one size.
Status measure_element(Isa isa, int element, int size_class, const TuneProgress& progress,
                       SparseTable& table) {
  const int64_t side = kSides[size_class];
  const SparseForm any = SparseForm(element);
  const QuantScheme scheme =
      QuantScheme::parse(any == SparseForm::of_four_nibble ? "int4-g64" : "int8-ch").value();
  PARE_TRY(Walk dense, make_walk(isa, side));
  Tensor values;
  QuantizedTensor codes;
  if (has_codes(any)) {
    PARE_TRY(codes, sample_codes(scheme, side, side));
    PARE_TRY(const PackedMatrix packed, prepack(isa, std::make_shared<QuantizedTensor>(codes)));
    PARE_TRY(dense.packed, copies_of(packed));
  } else {
    PARE_TRY(values, sample_values(dtype_of(any), side, side));
    while (dense.dense.size() * values.size_bytes() < kBeyondCache) {
      PARE_TRY(Tensor copy, copied(values));
      dense.dense.push_back(std::move(copy));
    }
  }
  const std::vector<SparseKind>& kinds = sparse_kinds();
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (int(kinds[i].form) % 5 != element) continue;
    SparsityPattern pattern;
    if (!is_masked(kinds[i].form)) pattern = {.kind = SparsityPattern::Kind::n_of_m, .n = kinds[i].n, .m = 4};
    PARE_TRY(const Mask mask, sample_mask(pattern, kinds[i].density, side, side));
    Result<SparseTensor> weight = has_codes(any) ? SparseTensor::from_quantized(codes, mask, pattern)
                                                 : SparseTensor::from_dense(values, mask, pattern);
    PARE_CHECK(weight);
    PARE_TRY(const PackedMatrix packed, sparse_prepack(*sparse_kernels(isa).front(), *weight));
    PARE_TRY(Walk sparse, make_walk(isa, side));
    PARE_TRY(sparse.packed, copies_of(packed));
    table[i][size_t(size_class)] = measured_ratio(dense, sparse);
    progress(kinds[i], size_class, table[i][size_t(size_class)]);
  }
  return {};
}

}  // namespace

Result<SparseTable> measure_sparse_table(Isa isa, const TuneProgress& progress) {
  SparseTable table(sparse_kinds().size(), {0.0, 0.0});
  constexpr int kElements = 5;
  const int threads = thread_count();
  set_thread_count(1);
  Status status;
  for (int element = 0; element < kElements && status; ++element) {
    for (int size_class = 0; size_class < kSizeClasses && status; ++size_class)
      status = measure_element(isa, element, size_class, progress, table);
  }
  set_thread_count(threads);
  PARE_CHECK(status);
  return table;
}

}  // namespace pare::cpu
