// bench/cpu_matmul.cpp: matrix products of the CPU backend. One row of activations against the rate of
// memory, many rows against the multiply-add rate and OpenBLAS (single-threaded build on the tiles of our
// pool).
#include <cblas.h>
#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "bench/cases.h"
#include "engine/backends/cpu/matmul/matmul.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/integer_product.h"
#include "engine/tensor/quantized_tensor.h"

namespace pare::bench {
namespace {

struct Extents {
  int64_t m, n, k;
};

std::vector<float> random_floats(int64_t count, uint32_t stream) {
  const Random random(7, RandomPurpose::test_data, stream);
  std::vector<float> values(static_cast<size_t>(count));
  parallel_ranges(count, 65536, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) values[size_t(i)] = 2.0f * random.uniform(uint64_t(i)) - 1.0f;
  });
  return values;
}

// Error of some outputs against the product in double, as a share of the bound for float sums of k terms.
// weight_row(n) gives row n of the weights.
double error_share(const Extents& e, const std::vector<float>& x, const std::vector<float>& out,
                   const std::function<std::vector<float>(int64_t)>& weight_row) {
  double worst = 0.0;
  for (int64_t n = 0; n < e.n; n += std::max<int64_t>(1, e.n / 97)) {
    const std::vector<float> row = weight_row(n);
    for (int64_t m = 0; m < e.m; m += std::max<int64_t>(1, e.m / 13)) {
      double sum = 0.0, size = 0.0;
      for (int64_t k = 0; k < e.k; ++k) {
        const double term = double(x[size_t(m * e.k + k)]) * double(row[size_t(k)]);
        sum += term;
        size += std::fabs(term);
      }
      const double bound = (4.0 + double(e.k) / 4.0) * 0x1p-24 * size;
      worst = std::max(worst, std::fabs(double(out[size_t(m * e.n + n)]) - sum) / bound);
    }
  }
  return worst;
}

// out = x W^T by OpenBLAS, cut into the same pieces for any thread count.
void openblas_product(const Extents& e, const float* x, const float* weight, float* out) {
  constexpr int64_t kColumns = 128;
  parallel_ranges(e.n, e.m == 1 ? 64 : kColumns, [&](int64_t begin, int64_t end) {
    if (e.m == 1) {
      cblas_sgemv(CblasRowMajor, CblasNoTrans, int(end - begin), int(e.k), 1.0f, weight + begin * e.k,
                  int(e.k), x, 1, 0.0f, out + begin, 1);
      return;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, int(e.m), int(end - begin), int(e.k), 1.0f, x,
                int(e.k), weight + begin * e.k, int(e.k), 0.0f, out + begin, int(e.n));
  });
}

struct Problem {
  Extents e;
  std::vector<float> x, out;
  std::vector<std::vector<float>> weights;          // f32 copies for the peer and for f32 itself
  std::vector<std::vector<uint16_t>> half_weights;  // bf16
  std::vector<PackedMatrix> packed;
  std::shared_ptr<const QuantizedTensor> quantized;
  std::shared_ptr<Storage> workspace;
  size_t turn = 0, peer_turn = 0;

  explicit Problem(Extents extents)
      : e(extents), x(random_floats(extents.m * extents.k, 1)), out(size_t(extents.m * extents.n)) {
    const size_t bytes = std::max<size_t>(64, cpu::matmul_workspace_bytes(cpu::best_isa(), e.m, e.n, e.k));
    workspace = Storage::allocate(bytes, Device::cpu()).value();
  }

  void dense(const void* weight, DType dtype) {
    cpu::matmul(cpu::best_isa(), {.x = x.data(),
                                  .weight = weight,
                                  .weight_dtype = dtype,
                                  .bias = nullptr,
                                  .out = out.data(),
                                  .m = e.m,
                                  .n = e.n,
                                  .k = e.k,
                                  .x_stride = e.k,
                                  .out_stride = e.n,
                                  .accumulate = false,
                                  .workspace = workspace->mutable_data()});
  }
  void codes(const PackedMatrix& weight) {
    cpu::packed_matmul(cpu::best_isa(), {.x = x.data(),
                                         .weight = &weight,
                                         .bias = nullptr,
                                         .out = out.data(),
                                         .m = e.m,
                                         .n = e.n,
                                         .k = e.k,
                                         .x_stride = e.k,
                                         .out_stride = e.n,
                                         .accumulate = false,
                                         .workspace = workspace->mutable_data()});
  }
};

Case with_limit(Case c, const Problem& p) {
  c.limit = p.e.m <= 4 ? Probe::cpu_read : Probe::cpu_fma_f32;
  c.operations = 2.0 * double(p.e.m) * double(p.e.n) * double(p.e.k);
  return c;
}

Case dense_case(DType dtype, Extents e) {
  auto p = std::make_shared<Problem>(e);
  const double bytes = double(e.n * e.k * dtype_bytes(dtype));
  const int64_t copies = e.m <= 4 ? copies_beyond_cache(bytes) : 1;
  for (int64_t i = 0; i < copies; ++i) {
    p->weights.push_back(i == 0 ? random_floats(e.n * e.k, 2) : std::vector<float>(p->weights[0]));
    if (dtype == DType::bf16) {
      std::vector<uint16_t> half(p->weights.back().size());
      for (size_t j = 0; j < half.size(); ++j) half[j] = float_to_bf16(p->weights.back()[j]);
      p->half_weights.push_back(std::move(half));
    }
  }
  Case c{.kernel = cpu::matmul_kernel_name(cpu::best_isa(), e.m, dtype), .bytes = bytes};
  c.run = [p, dtype] {
    const size_t copy = p->turn++ % p->weights.size();
    if (dtype == DType::bf16) {
      p->dense(p->half_weights[copy].data(), dtype);
    } else {
      p->dense(p->weights[copy].data(), dtype);
    }
  };
  c.verify = [p, c, dtype] {
    c.run();
    return error_share(p->e, p->x, p->out, [&](int64_t n) {
      const auto begin = p->weights[0].begin() + n * p->e.k;
      std::vector<float> row(begin, begin + p->e.k);
      if (dtype == DType::bf16) {
        for (float& w : row) w = bf16_to_float(float_to_bf16(w));
      }
      return row;
    });
  };
  c.peer = {.name = "openblas-f32", .run = [p] {
              openblas_product(p->e, p->x.data(), p->weights[p->peer_turn++ % p->weights.size()].data(),
                               p->out.data());
            }};
  return with_limit(std::move(c), *p);
}

std::shared_ptr<const QuantizedTensor> random_quantized(const QuantScheme& scheme, int64_t out, int64_t in) {
  auto weight = std::make_shared<QuantizedTensor>(QuantizedTensor::allocate(scheme, out, in).value());
  const Random random(8, RandomPurpose::test_data);
  auto* codes = weight->codes.mutable_data<uint8_t>();
  parallel_ranges(weight->codes.numel(), 65536, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) codes[i] = uint8_t(random.bits(uint64_t(i))[0]);
  });
  for (int64_t i = 0; i < weight->scales.numel(); ++i) {
    weight->scales.mutable_data<uint16_t>()[i] = float_to_f16(0.01f + 0.01f * random.uniform(uint64_t(i), 1));
    if (weight->zero_points.defined())
      weight->zero_points.mutable_data<uint8_t>()[i] = uint8_t(i % scheme.code_count());
  }
  return weight;
}

Case codes_case(const std::string& text, Extents e) {
  auto p = std::make_shared<Problem>(e);
  const QuantScheme scheme = QuantScheme::parse(text).value();
  p->quantized = random_quantized(scheme, e.n, e.k);
  const double bytes = double(scheme.stored_bytes(e.n, e.k));
  const int64_t copies = e.m <= 4 ? copies_beyond_cache(bytes) : 1;
  for (int64_t i = 0; i < copies; ++i)
    p->packed.push_back(cpu::prepack(cpu::best_isa(), p->quantized).value());
  p->weights.push_back(random_floats(e.m <= 4 ? 1 : e.n * e.k, 2));
  Case c{.kernel = cpu::matmul_kernel_name(cpu::best_isa(), p->packed[0], e.m), .bytes = bytes};
  c.run = [p] { p->codes(p->packed[p->turn++ % p->packed.size()]); };
  c.verify = [p, c] {
    c.run();
    return error_share(p->e, p->x, p->out, [&](int64_t n) {
      std::vector<float> row(static_cast<size_t>(p->e.k));
      p->quantized->dequantize_rows(n, n + 1, row.data());
      return row;
    });
  };
  if (e.m > 4) {
    c.peer = {.name = "openblas-f32",
              .run = [p] { openblas_product(p->e, p->x.data(), p->weights[0].data(), p->out.data()); }};
  }
  return with_limit(std::move(c), *p);
}

// Rounded activations times codes, beside our own float product of the same shape.
Case integer_case(const std::string& text, Extents e) {
  auto p = std::make_shared<Problem>(e);
  const QuantScheme scheme = QuantScheme::parse(text).value();
  auto weight = std::make_shared<QuantizedTensor>(*random_quantized(scheme, e.n, e.k));
  weight->activation = ActivationQuant{};
  p->quantized = weight;
  const double bytes = double(scheme.stored_bytes(e.n, e.k));
  const int64_t copies = e.m <= 4 ? copies_beyond_cache(bytes) : 1;
  for (int64_t i = 0; i < copies; ++i)
    p->packed.push_back(cpu::prepack(cpu::best_isa(), p->quantized).value());
  const size_t needs = cpu::packed_matmul_workspace_bytes(cpu::best_isa(), p->packed[0], e.m);
  if (needs > p->workspace->size_bytes()) p->workspace = Storage::allocate(needs, Device::cpu()).value();
  for (int64_t i = 0; i < (e.m <= 4 ? copies_beyond_cache(4.0 * double(e.n * e.k)) : 1); ++i)
    p->weights.push_back(random_floats(e.n * e.k, 2));
  Case c{.kernel = cpu::matmul_kernel_name(cpu::best_isa(), p->packed[0], e.m), .bytes = bytes};
  c.run = [p] { p->codes(p->packed[p->turn++ % p->packed.size()]); };
  c.verify = [p, c] {
    c.run();
    std::vector<float> rounded(p->x.size());
    std::vector<int8_t> codes(size_t(p->e.k));
    for (int64_t m = 0; m < p->e.m; ++m) {
      const size_t first = size_t(m * p->e.k);
      const RoundedRow row = round_activations({}, p->x.data() + first, p->e.k, codes.data());
      for (size_t k = 0; k < codes.size(); ++k) rounded[first + k] = row.scale * float(codes[k]);
    }
    return error_share(p->e, rounded, p->out, [&](int64_t n) {
      std::vector<float> row(static_cast<size_t>(p->e.k));
      p->quantized->dequantize_rows(n, n + 1, row.data());
      return row;
    });
  };
  c.peer = {.name = "pare-f32",
            .run = [p] { p->dense(p->weights[p->peer_turn++ % p->weights.size()].data(), DType::f32); }};
  return with_limit(std::move(c), *p);
}

// Repacking, as on load: canonical codes are read, tiles are written.
Case pack_case(const std::string& text, Extents e) {
  const QuantScheme scheme = QuantScheme::parse(text).value();
  auto weight = random_quantized(scheme, e.n, e.k);
  Case c{.kernel = "prepack", .bytes = 2.0 * double(scheme.stored_bytes(e.n, e.k)), .limit = Probe::cpu_copy};
  c.run = [weight] { (void)cpu::prepack(cpu::best_isa(), weight).value(); };
  c.verify = [weight] {
    const QuantizedTensor back = cpu::unpack(cpu::prepack(cpu::best_isa(), weight).value()).value();
    return std::equal(back.codes.raw(), back.codes.raw() + back.codes.size_bytes(), weight->codes.raw())
               ? 0.0
               : 2.0;
  };
  return c;
}

}  // namespace

std::vector<NamedCase> matmul_cases() {
  std::vector<NamedCase> cases;
  const std::vector<Extents> decode = {{1, 576, 576},   {1, 1536, 576},  {1, 576, 1536},
                                       {1, 49152, 576}, {1, 4096, 4096}, {1, 11008, 4096}};
  const std::vector<Extents> prompt = {
      {512, 1536, 576}, {512, 576, 1536}, {512, 49152, 576}, {2048, 2048, 2048}};
  const auto name = [](std::string_view family, std::string_view form, const Extents& e) {
    return fmt::format("{}/{}/{}x{}/m{}", family, form, e.n, e.k, e.m);
  };
  const auto is_headline = [](std::string_view form, const Extents& e) {
    const bool is_form = form == "int8-ch" || form == "int4-g64" || form == "int4-g128";
    return is_form && (e.n == 4096 || e.n == 1536 || e.n == 49152);
  };
  for (const char* form : {"int8-ch", "int4-g64", "int4-g128", "int4-g64-asym", "nf4-g64", "int3-g128"}) {
    for (const Extents& e : decode) {
      cases.push_back(
          {name("cpu_gemv", form, e), [form, e] { return codes_case(form, e); }, is_headline(form, e)});
    }
    cases.push_back({name("cpu_gemv", form, {4, 4096, 4096}), [form] {
                       return codes_case(form, {4, 4096, 4096});
                     }});
  }
  for (const auto& [form, dtype] : {std::pair{"bf16", DType::bf16}, std::pair{"f32", DType::f32}}) {
    for (const Extents& e : decode) {
      cases.push_back({name("cpu_gemv", form, e), [dtype = dtype, e] { return dense_case(dtype, e); }});
    }
    for (const Extents& e : prompt) {
      cases.push_back({name("cpu_gemm", form, e), [dtype = dtype, e] { return dense_case(dtype, e); }});
    }
    for (const int64_t m : {8, 16, 64}) {
      const Extents e{m, 4096, 4096};
      cases.push_back({name("cpu_gemm", form, e), [dtype = dtype, e] { return dense_case(dtype, e); }});
    }
  }
  for (const char* form : {"int8-ch", "int4-g64", "int4-g64-asym"}) {
    for (const Extents& e : prompt) {
      cases.push_back({name("cpu_gemm", form, e), [form, e] { return codes_case(form, e); }});
    }
    for (const int64_t m : {8, 16, 64}) {
      const Extents e{m, 4096, 4096};
      cases.push_back({name("cpu_gemm", form, e), [form, e] { return codes_case(form, e); }});
    }
    if (std::string_view(form) == "int8-ch") {
      for (const Extents& e : {Extents{1, 4096, 4096},
                               {1, 11008, 4096},
                               {16, 4096, 4096},
                               {64, 4096, 4096},
                               {512, 1536, 576},
                               {512, 4096, 4096},
                               {2048, 2048, 2048}}) {
        cases.push_back({name("cpu_w8a8", form, e), [form, e] { return integer_case(form, e); }, e.k > 600});
      }
    }
    cases.push_back({name("cpu_pack", form, {1, 4096, 4096}), [form] {
                       return pack_case(form, {1, 4096, 4096});
                     }});
  }
  return cases;
}

}  // namespace pare::bench
