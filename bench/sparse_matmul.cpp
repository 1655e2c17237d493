// bench/sparse_matmul.cpp: one token's product with sparse matrices, beside the rate of memory and our own
// dense products: bf16
// ("/vs-bf16") and INT4 ("/vs-int4"), the true competitor of everything that is smaller.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bench/cases.h"
#include "engine/backends/cpu/matmul/matmul.h"
#include "engine/backends/cpu/sparse/sample.h"
#include "engine/backends/cpu/sparse/sparse.h"
#include "engine/core/parallel.h"

namespace pare::bench {
namespace {

struct Form {
  const char* name;
  const char* pattern;  // null: dense
  double density;
  const char* scheme;  // null: bf16
};

constexpr Form kForms[] = {
    {"dense-bf16", nullptr, 1.0, nullptr},
    {"dense-int8-ch", nullptr, 1.0, "int8-ch"},
    {"dense-int4-g64", nullptr, 1.0, "int4-g64"},
    {"2of4-bf16", "2:4", 0.5, nullptr},
    {"1of4-bf16", "1:4", 0.25, nullptr},
    {"bitmask50-bf16", "unstructured", 0.5, nullptr},
    {"bitmask40-bf16", "unstructured", 0.4, nullptr},
    {"bitmask25-bf16", "unstructured", 0.25, nullptr},
    {"bitmask10-bf16", "unstructured", 0.1, nullptr},
    {"block1x8-bf16", "block-1x8", 0.5, nullptr},
    {"block4x4-bf16", "block-4x4", 0.5, nullptr},
    {"block16x16-bf16", "block-16x16", 0.5, nullptr},
    {"2of4-int8-ch", "2:4", 0.5, "int8-ch"},
    {"2of4-int4-g64", "2:4", 0.5, "int4-g64"},
    {"2of4-int4-g64-asym", "2:4", 0.5, "int4-g64-asym"},
    {"bitmask50-int8-ch", "unstructured", 0.5, "int8-ch"},
    {"bitmask50-int4-g64", "unstructured", 0.5, "int4-g64"},
};

// A matrix in the form that runs, in copies that are walked in turn.
struct Side {
  int64_t out, in;
  std::vector<Tensor> dense;
  std::vector<PackedMatrix> packed;
  Tensor values;  // f32 [out, in], what it multiplies by
  std::vector<float> x, result;
  std::shared_ptr<Storage> workspace;
  size_t turn = 0;

  double bytes() const { return double(packed.empty() ? dense[0].size_bytes() : packed[0].size_bytes()); }
  std::string kernel(int64_t m) const {
    if (packed.empty()) return cpu::matmul_kernel_name(cpu::best_isa(), m, dense[0].dtype());
    if (!packed[0].pattern) return cpu::matmul_kernel_name(cpu::best_isa(), packed[0], m);
    return fmt::format("{} {}", cpu::sparse_kernels(cpu::best_isa()).front()->name, packed[0].layout.name);
  }
  void run(int64_t m) {
    const auto fill = [&](auto args) {
      args.x = x.data();
      args.out = result.data();
      args.m = m;
      args.n = args.out_stride = out;
      args.k = args.x_stride = in;
      args.workspace = workspace->mutable_data();
      return args;
    };
    if (packed.empty()) {
      MatmulArgs args = fill(MatmulArgs{});
      args.weight = dense[turn++ % dense.size()].raw();
      args.weight_dtype = DType::bf16;
      return cpu::matmul(cpu::best_isa(), args);
    }
    PackedMatmulArgs args = fill(PackedMatmulArgs{});
    args.weight = &packed[turn++ % packed.size()];
    if (args.weight->pattern) {
      cpu::sparse_matmul(cpu::best_isa(), cpu::kernels_of(cpu::best_isa(), *args.weight), args);
    } else {
      cpu::packed_matmul(cpu::best_isa(), args);
    }
  }
};

Tensor copied(const Tensor& tensor) {
  Tensor copy = Tensor::allocate(tensor.dtype(), tensor.shape()).value();
  std::memcpy(copy.mutable_raw(), tensor.raw(), tensor.size_bytes());
  return copy;
}

PackedMatrix copied(const PackedMatrix& packed) {
  PackedMatrix copy = packed;
  copy.codes = copied(packed.codes);
  if (packed.scales.defined()) copy.scales = copied(packed.scales);
  return copy;
}

std::shared_ptr<Side> make_side(const Form& form, int64_t m, int64_t out, int64_t in, bool hot) {
  auto side = std::make_shared<Side>(Side{.out = out,
                                          .in = in,
                                          .dense = {},
                                          .packed = {},
                                          .values = {},
                                          .x = std::vector<float>(size_t(m * in)),
                                          .result = std::vector<float>(size_t(m * out)),
                                          .workspace = nullptr});
  for (size_t i = 0; i < side->x.size(); ++i) side->x[i] = float(int(i * 7919 % 1024) - 512) / 512.0f;
  const size_t workspace = cpu::matmul_workspace_bytes(cpu::best_isa(), m, out, in);
  side->workspace = Storage::allocate(workspace + 64, Device::cpu()).value();
  const cpu::SparseKernels& kernels = *cpu::sparse_kernels(cpu::best_isa()).front();
  const auto pack_sparse = [&](const SparseTensor& weight) {
    side->values = Tensor::allocate(DType::f32, {out, in}).value();
    parallel_ranges(out, 16, [&](int64_t begin, int64_t end) {
      weight.dense_rows(begin, end, side->values.mutable_data<float>() + begin * in);
    });
    side->packed.push_back(cpu::sparse_prepack(kernels, weight).value());
  };
  SparsityPattern pattern;
  if (form.pattern != nullptr) pattern = SparsityPattern::parse(form.pattern).value();
  if (form.scheme == nullptr) {
    const Tensor dense = cpu::sample_values(DType::bf16, out, in).value();
    if (form.pattern == nullptr) {
      side->dense.push_back(dense);
      side->values = converted(dense, DType::f32).value();
    } else {
      const Mask mask = cpu::sample_mask(pattern, form.density, out, in).value();
      pack_sparse(SparseTensor::from_dense(dense, mask, pattern).value());
    }
  } else {
    const auto codes = std::make_shared<QuantizedTensor>(
        cpu::sample_codes(QuantScheme::parse(form.scheme).value(), out, in).value());
    if (form.pattern == nullptr) {
      side->packed.push_back(cpu::prepack(cpu::best_isa(), codes).value());
      side->values = codes->dequantize().value();
    } else {
      const Mask mask = cpu::sample_mask(pattern, form.density, out, in).value();
      pack_sparse(SparseTensor::from_quantized(*codes, mask, pattern).value());
    }
  }
  const int64_t copies = hot || m > 4 ? 1 : copies_beyond_cache(side->bytes());
  for (int64_t i = 1; i < copies; ++i) {
    if (side->packed.empty()) {
      side->dense.push_back(copied(side->dense[0]));
    } else {
      side->packed.push_back(copied(side->packed[0]));
    }
  }
  return side;
}

// Error of some outputs against the product in double, as a share of the bound for float sums of k terms.
double error_share(Side& side, int64_t m) {
  side.run(m);
  double worst = 0.0;
  for (int64_t n = 0; n < side.out; n += std::max<int64_t>(1, side.out / 97)) {
    const float* row = side.values.data<float>() + n * side.in;
    for (int64_t t = 0; t < m; t += std::max<int64_t>(1, m / 5)) {
      double sum = 0.0, size = 0.0;
      for (int64_t k = 0; k < side.in; ++k) {
        const double term = double(side.x[size_t(t * side.in + k)]) * double(row[k]);
        sum += term;
        size += std::fabs(term);
      }
      const double bound = (4.0 + double(side.in) / 4.0) * 0x1p-24 * size + 1e-30;
      worst = std::max(worst, std::fabs(double(side.result[size_t(t * side.out + n)]) - sum) / bound);
    }
  }
  return worst;
}

Case sparse_case(const Form& form, const Form& peer, int64_t m, int64_t out, int64_t in, bool hot) {
  const auto ours = make_side(form, m, out, in, hot), other = make_side(peer, m, out, in, hot);
  Case c{.kernel = ours->kernel(m), .bytes = ours->bytes()};
  c.params["bits_per_weight"] = 8.0 * ours->bytes() / double(out * in);
  c.operations = 2.0 * double(m) * double(out) * double(in);
  c.limit = m <= 4 ? Probe::cpu_read : Probe::cpu_fma_f32;
  c.verify = [ours, m] {
    const double share = error_share(*ours, m);
    ours->values = Tensor();
    return share;
  };
  c.run = [ours, m] { ours->run(m); };
  c.peer = {.name = fmt::format("pare-{}", peer.name), .run = [other, m] { other->run(m); }};
  return c;
}

}  // namespace

std::vector<NamedCase> sparse_cases() {
  constexpr int64_t kShapes[][2] = {{576, 576},   {1536, 576},  {576, 1536},
                                    {2048, 2048}, {4096, 4096}, {11008, 4096}};
  std::vector<NamedCase> cases;
  const auto add = [&](const Form& form, const Form& peer, int64_t m, int64_t out, int64_t in, bool hot) {
    if (&form == &peer) return;
    const char* against = peer.scheme == nullptr ? "bf16" : "int4";
    const bool is_headline = m == 1 && !hot && out == 4096 && peer.scheme == nullptr;
    cases.push_back(
        {fmt::format("cpu_sparse/{}/{}x{}/m{}/vs-{}{}", form.name, out, in, m, against, hot ? "/hot" : ""),
         [=, &form, &peer] { return sparse_case(form, peer, m, out, in, hot); }, is_headline});
  };
  for (const Form& form : kForms) {
    for (const auto& shape : kShapes) {
      for (const Form* peer : {&kForms[0], &kForms[2]}) add(form, *peer, 1, shape[0], shape[1], false);
    }
    add(form, kForms[0], 1, 576, 1536, true);
    add(form, kForms[0], 1, 2048, 2048, true);
    add(form, kForms[0], 4, 2048, 2048, false);
    add(form, kForms[0], 512, 2048, 2048, false);
  }
  return cases;
}

}  // namespace pare::bench
