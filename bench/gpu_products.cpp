// bench/gpu_products.cpp: products with weights of few bits and of bytes on a GPU, beside cuBLAS in bf16.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/cases.h"
#include "bench/gpu_support.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/ops.h"
#include "engine/tensor/transfer.h"

namespace pare::bench {
namespace {

constexpr double kBound =
    1.5e-2;  // of the largest output: both operands rounded to bf16, or inputs to 8 bits

// Codes drawn at random with scales that make outputs of about normal size.
QuantizedTensor random_codes(const QuantScheme& scheme, int64_t out, int64_t in) {
  QuantizedTensor tensor = require(QuantizedTensor::allocate(scheme, out, in));
  const Random random(13, RandomPurpose::test_data);
  auto* words = reinterpret_cast<uint32_t*>(tensor.codes.mutable_raw());
  parallel_ranges(int64_t(tensor.codes.size_bytes() / 16), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) std::ranges::copy(random.bits(uint64_t(i)), words + 4 * i);
  });
  const auto scale = float(1.0 / (std::exp2(scheme.bits - 1) * std::sqrt(double(in))));
  const uint16_t half = float_to_f16(scale);
  for (int64_t i = 0; i < tensor.scales.numel(); ++i) {
    if (tensor.scales.dtype() == DType::f32) {
      tensor.scales.mutable_data<float>()[i] = scale;
    } else {
      tensor.scales.mutable_data<uint16_t>()[i] = half;
    }
  }
  if (tensor.zero_points.defined())
    std::fill_n(tensor.zero_points.mutable_data<uint8_t>(), tensor.zero_points.numel(),
                uint8_t(1 << (scheme.bits - 1)));
  return tensor;
}

struct Product {
  Tensor x, out, host_x, bf16_x;
  std::shared_ptr<const QuantizedTensor> codes;
  std::vector<PackedMatrix> weights;
  std::vector<Tensor> dense;  // bf16, for cuBLAS
  Workspace workspace;
  int64_t m = 0, n = 0, k = 0;

  void run(int turn) {
    ops::matmul(x, weights[size_t(turn) % weights.size()], Tensor(), false, out, workspace);
  }
  void run_peer(int turn) {
    cuda::cublas_bf16(gpu(), bf16_x.raw(), dense[size_t(turn) % dense.size()].raw(),
                      out.mutable_data<float>(), m, n, k);
  }
  // Some rows of outputs against the definition in double.
  double error() {
    run(0);
    const Tensor got = require(moved(out, Device::cpu()));
    std::vector<float> row(static_cast<size_t>(k));
    double worst = 0.0, largest = 0.0;
    for (int64_t r = 0; r < n; r += std::max<int64_t>(1, n / 61)) {
      codes->dequantize_rows(r, r + 1, row.data());
      for (int64_t i = 0; i < m; ++i) {
        double sum = 0.0;
        for (int64_t c = 0; c < k; ++c)
          sum += double(row[size_t(c)]) * double(host_x.data<float>()[i * k + c]);
        worst = std::max(worst, std::fabs(double(got.data<float>()[i * n + r]) - sum));
        largest = std::max(largest, std::fabs(sum));
      }
    }
    return std::isfinite(worst) && largest > 0.0 ? worst / largest / kBound : 2.0;
  }
};

Case product_case(const LinearShape& shape, const std::string& scheme_name, bool rounds_inputs, int64_t m) {
  auto p = std::make_shared<Product>();
  p->m = m;
  p->n = shape.out;
  p->k = shape.in;
  QuantizedTensor codes = random_codes(require(QuantScheme::parse(scheme_name)), p->n, p->k);
  if (rounds_inputs) codes.activation = ActivationQuant{};
  p->codes = std::make_shared<const QuantizedTensor>(std::move(codes));
  const auto bytes = double(p->codes->size_bytes());
  for (int64_t i = 0; i < gpu_copies(bytes); ++i) p->weights.push_back(require(gpu().prepack(p->codes)));
  const Tensor dense = gpu_normal(p->n, p->k, 3, DType::bf16);
  for (int64_t i = 0; i < gpu_copies(2.0 * double(p->n * p->k)); ++i) {
    p->dense.push_back(require(Tensor::allocate(DType::bf16, {p->n, p->k}, gpu_device())));
    require(copy_into(dense, p->dense.back()));
  }
  p->host_x = host_normal(m, p->k, 5);
  p->x = require(moved(p->host_x, gpu_device()));
  p->bf16_x = require(moved(require(converted(p->host_x, DType::bf16)), gpu_device()));
  p->out = require(Tensor::allocate(DType::f32, {m, p->n}, gpu_device()));
  p->workspace =
      require(Workspace::reserve(ops::matmul_workspace_bytes(gpu_device(), p->weights[0], m), gpu_device()));

  const double operations = 2.0 * double(m) * double(p->n) * double(p->k);
  const double moved_bytes = bytes + 4.0 * double(m) * double(p->n + p->k);
  const int repeats = repeats_for(moved_bytes, operations);
  const bool by_arithmetic = m >= 256;
  Case c{.kernel = p->weights[0].layout.name};
  c.bytes = moved_bytes * repeats;
  c.operations = operations * repeats;
  c.params["m"] = m;
  c.params["n"] = p->n;
  c.params["k"] = p->k;
  c.params["calls_per_sample"] = repeats;
  c.own_limit = gpu_limit(by_arithmetic ? cuda::GpuProbe::gemm_bf16 : cuda::GpuProbe::copy);
  c.verify = [p] { return p->error(); };
  c.run = on_gpu(repeats, [p](int turn) { p->run(turn); });
  c.peer = {
      .name = "cuBLASLt bf16", .version = "", .run = on_gpu(repeats, [p](int turn) { p->run_peer(turn); })};
  return c;
}

}  // namespace

std::vector<NamedCase> gpu_product_cases() {
  std::vector<NamedCase> cases;
  const auto add = [&](const std::string& family, const LinearShape& shape, const std::string& scheme,
                       bool rounds, int64_t m, bool headline) {
    cases.push_back(
        {fmt::format("{}/{}/{}x{}/m{}", family, scheme + (rounds ? "-a8" : ""), shape.out, shape.in, m),
         [=, &shape] { return product_case(shape, scheme, rounds, m); }, headline});
  };
  for (const LinearShape& shape : k8B) {
    for (const int64_t m : {1, 2, 4, 8, 16, 32, 64, 128}) add("gpu_gemv", shape, "int4-g128", false, m, true);
    for (const int64_t m : {1, 16}) {
      add("gpu_gemv", shape, "int8-g128", false, m, true);
      add("gpu_gemv", shape, "int4-g128-asym", false, m, false);
      add("gpu_gemv", shape, "int4-g32", false, m, false);
      add("gpu_gemv", shape, "nf4-g64", false, m, false);
      add("gpu_gemv", shape, "int3-g128", false, m, false);
    }
    for (const int64_t m : {16, 64, 256, 1024, 2048, 4096})
      add("gpu_gemm", shape, "int8-ch", true, m, m >= 2048);
    add("gpu_gemm", shape, "int4-g128", false, 2048, true);
  }
  for (const LinearShape& shape : k1B) {
    for (const int64_t m : {1, 16}) add("gpu_gemv", shape, "int4-g128", false, m, false);
  }
  static constexpr LinearShape kTiny{"tiny", 64, 128};
  if (is_tiny()) {
    add("gpu_gemv/tiny", kTiny, "int4-g128", false, 1, false);
    add("gpu_gemv/tiny", kTiny, "nf4-g64", false, 16, false);
    add("gpu_gemm/tiny", kTiny, "int8-ch", true, 32, false);
  }
  static constexpr LinearShape kHead{"head", 128256, 4096};
  add("gpu_gemv", kHead, "int4-g128", false, 1, true);
  add("gpu_gemv", kHead, "int8-ch", false, 1, false);
  return cases;
}

}  // namespace pare::bench
