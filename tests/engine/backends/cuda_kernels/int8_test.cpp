// Integer products: the packed form gives back what was packed, and rounding inside the norm gives the bits
// of the two operations one after the other. (Products: integer_product_test.cpp, on every backend.)
#include "engine/backends/cuda/int8_matmul.h"

#include "tests/engine/backends/cuda_kernels/emulated.h"

namespace pare::test {
namespace {

Random draw(uint64_t seed) {
  return Random(seed, RandomPurpose::test_data);
}

QuantizedTensor random_weight(const QuantScheme& scheme, int64_t out, int64_t in) {
  QuantizedTensor weight = *QuantizedTensor::allocate(scheme, out, in);
  const Random random = draw(1);
  std::vector<uint8_t> codes(size_t(in), 0);
  for (int64_t row = 0; row < out; ++row) {
    for (int64_t k = 0; k < in; ++k)
      codes[size_t(k)] = uint8_t(1 + random.below(uint64_t(scheme.code_count() - 1), uint64_t(row * in + k)));
    pack_codes(codes.data(), in, scheme.bits,
               weight.codes.mutable_data<uint8_t>() + row * scheme.row_bytes(in));
  }
  for (int64_t i = 0; i < weight.scales.numel(); ++i) {
    const float scale = 0.01f + random.uniform(uint64_t(i), 1);
    if (weight.scales.dtype() == DType::f32) {
      weight.scales.mutable_data<float>()[i] = scale;
    } else {
      weight.scales.mutable_data<uint16_t>()[i] =
          weight.scales.dtype() == DType::bf16 ? float_to_bf16(scale) : float_to_f16(scale);
    }
    if (weight.zero_points.defined())
      weight.zero_points.mutable_data<uint8_t>()[i] =
          uint8_t(random.below(uint64_t(scheme.code_count()), uint64_t(i), 2));
  }
  return weight;
}

TEST(CudaInt8LayoutTest, UnpackingGivesBackWhatWasPacked) {
  for (const char* text : {"int8-ch", "int8-tensor", "int8-g24-asym", "int8-ch-full", "int8-g32-sbf16",
                           "int4-g64", "int4-g32-asym", "int6-ch-sf32", "int2-g16", "int3-g40-asym"}) {
    for (const bool is_symmetric : {true, false}) {
      for (const auto& [out, in] :
           {std::pair<int64_t, int64_t>{1, 1}, {3, 31}, {5, 64}, {17, 130}, {2, 515}, {3, 0}}) {
        SCOPED_TRACE(testing::Message() << text << " " << out << "x" << in);
        QuantizedTensor weight = random_weight(*QuantScheme::parse(text), out, in);
        weight.activation = ActivationQuant{.symmetric = is_symmetric};
        const PackedMatrix packed = *cuda::pack_int8(weight);
        const cuda::Int8Segments segments = cuda::int8_segments(packed);
        EXPECT_EQ(segments.steps % 2, 0);
        EXPECT_GE(segments.padded(), in);
        const QuantizedTensor back = *cuda::unpack_int8(packed);
        EXPECT_EQ(back.scheme, weight.scheme);
        EXPECT_EQ(back.activation, weight.activation);
        EXPECT_TRUE(same_bytes(back.codes, weight.codes));
        EXPECT_TRUE(same_bytes(back.scales, weight.scales));
        EXPECT_TRUE(same_bytes(back.zero_points, weight.zero_points));
      }
    }
  }
}

TEST(CudaInt8LayoutTest, FillingsAreCodesOfNothing) {
  QuantizedTensor weight = random_weight(*QuantScheme::parse("int8-g24"), 2, 50);
  weight.activation = ActivationQuant{};
  const PackedMatrix packed = *cuda::pack_int8(weight);
  ASSERT_EQ(packed.codes.size(1), 128);  // 24 + 24 + 2 columns: three steps, rounded up to four
  for (int64_t place = 0; place < 128; ++place) {
    const int64_t group = place / 32, within = place % 32;
    const bool is_column = within < 24 && group * 24 + within < 50;
    if (!is_column) {
      EXPECT_EQ(packed.codes.data<uint8_t>()[place], 0) << place;
    }
  }
}

// Rounded tokens as bytes of a workspace.
Tensor rounded(const PackedMatrix& weight, int64_t m, const std::function<void(void*)>& round) {
  const Tensor workspace = device_bytes(int64_t(cuda::int8_matmul_workspace_bytes(weight, m)));
  round(workspace.mutable_raw());
  return on_host(workspace);
}

TEST(CudaInt8RoundTest, TheDefinitionAndTheNormGiveTheSameCodes) {
  const std::vector<ActivationQuant> activations{
      {},
      {.symmetric = false},
      {.mode = ActivationQuant::Mode::static_tensor, .symmetric = false, .scale = 0.02f, .zero_point = -5}};
  for (const auto& [m, k] :
       {std::pair<int64_t, int64_t>{1, 1}, {5, 40}, {3, 130}, {2, 600}, {3, 1500}, {1, 17000}}) {
    for (const char* text : {"int8-ch", "int8-g24-asym", "int4-g32"}) {
      for (const ActivationQuant& activation : activations) {
        SCOPED_TRACE(testing::Message() << m << "x" << k << " " << text << " " << activation.text());
        QuantizedTensor weight = random_weight(*QuantScheme::parse(text), 1, k);
        weight.activation = activation;
        const PackedMatrix packed = *cuda::pack_int8(weight);
        Tensor x = *Tensor::allocate(DType::f32, {m, k}), gain = *Tensor::allocate(DType::f32, {k});
        const Random random = draw(2);
        for (int64_t i = 0; i < m * k; ++i) x.mutable_data<float>()[i] = random.uniform(uint64_t(i)) - 0.4f;
        for (int64_t i = 0; i < k; ++i) gain.mutable_data<float>()[i] = random.uniform(uint64_t(i), 1);
        const Tensor x_there = on_device(x), gain_there = on_device(gain), normal = on_device(x);
        RmsNormArgs norm{.x = x_there.data<float>(),
                         .gain = gain_there.data<float>(),
                         .out = normal.mutable_data<float>(),
                         .tokens = m,
                         .channels = k,
                         .x_stride = k,
                         .out_stride = k,
                         .eps = 1e-5f,
                         .gain_plus_one = true};
        emulated().rms_norm(norm);
        const Tensor apart = rounded(packed, m, [&](void* workspace) {
          cuda::int8_round(emulated().context(), normal.data<float>(), m, k, packed, workspace);
        });
        const Tensor normal_here = on_host(normal);
        const Tensor again = on_device(x);  // the norm's result, written by the fused form
        norm.out = again.mutable_data<float>();
        const Tensor together = rounded(packed, m, [&](void* workspace) {
          cuda::rms_norm_quantize(emulated().context(), norm, packed, workspace);
        });
        EXPECT_TRUE(same_bytes(apart, together));
        EXPECT_TRUE(same_bytes(on_host(again), normal_here));
        norm.out = nullptr;
        EXPECT_TRUE(same_bytes(apart, rounded(packed, m, [&](void* workspace) {
                                 cuda::rms_norm_quantize(emulated().context(), norm, packed, workspace);
                               })));
        // Against the definition.
        const cuda::Int8Segments segments = cuda::int8_segments(packed);
        const cuda::Int8Rows rows = cuda::int8_rows(segments, m, apart.mutable_raw());
        for (int64_t t = 0; t < m; ++t) {
          std::vector<int8_t> codes(size_t(k), 0);
          const RoundedRow want =
              round_activations(activation, normal_here.data<float>() + t * k, k, codes.data());
          EXPECT_EQ(rows.rows[t].scale, want.scale);
          EXPECT_EQ(rows.rows[t].zero_point, want.zero_point);
          int64_t wrong = 0;
          for (int64_t c = 0; c < k; ++c) {
            const int64_t place =
                c / segments.group_width * segments.group_steps * 32 + c % segments.group_width;
            wrong += rows.codes[t * segments.padded() + place] != codes[size_t(c)];
          }
          EXPECT_EQ(wrong, 0);
        }
      }
    }
  }
}

TEST(CudaInt8RoundTest, NormsGiveTheSameCodesInAnyOrder) {
  for (const auto& [m, k] : {std::pair<int64_t, int64_t>{1, 3}, {19, 50}, {9, 130}, {3, 600}, {2, 1030}}) {
    for (const char* text : {"int8-ch", "int8-g24-asym"}) {
      SCOPED_TRACE(testing::Message() << m << "x" << k << " " << text);
      QuantizedTensor weight = random_weight(*QuantScheme::parse(text), 1, k);
      weight.activation = ActivationQuant{.symmetric = false};
      const PackedMatrix packed = *cuda::pack_int8(weight);
      // A row of gain and a row of bias in one tensor; rows of x further apart than they are wide.
      Tensor x = *Tensor::allocate(DType::f32, {m, k + 3}), shift = *Tensor::allocate(DType::f32, {2, k});
      const Random random = draw(4);
      for (int64_t i = 0; i < x.numel(); ++i) x.mutable_data<float>()[i] = random.uniform(uint64_t(i)) - 0.4f;
      for (int64_t i = 0; i < 2 * k; ++i) shift.mutable_data<float>()[i] = random.uniform(uint64_t(i), 1);
      const Tensor x_there = on_device(x), shift_there = on_device(shift);
      const Tensor normal = on_device(*Tensor::allocate(DType::f32, {m, k}));
      const LayerNormArgs norm{.x = x_there.data<float>() + 1,
                               .gain = shift_there.data<float>(),
                               .bias = shift_there.data<float>() + k,
                               .out = normal.mutable_data<float>(),
                               .tokens = m,
                               .channels = k,
                               .x_stride = k + 3,
                               .out_stride = k,
                               .eps = 1e-5f};
      emulated().layer_norm(norm);
      const Tensor want = rounded(packed, m, [&](void* workspace) {
        cuda::int8_round(emulated().context(), normal.data<float>(), m, k, packed, workspace);
      });
      const Tensor normal_here = on_host(normal);
      in_all_orders([&] {
        const Tensor again = on_device(*Tensor::allocate(DType::f32, {m, k}));
        for (float* out : {again.mutable_data<float>(), static_cast<float*>(nullptr)}) {
          LayerNormArgs fused = norm;
          fused.out = out;
          EXPECT_TRUE(same_bytes(want, rounded(packed, m, [&](void* workspace) {
                                   cuda::layer_norm_quantize(emulated().context(), fused, packed, workspace);
                                 })));
        }
        EXPECT_TRUE(same_bytes(on_host(again), normal_here));
        const RmsNormArgs root{.x = norm.x,
                               .gain = norm.gain,
                               .out = again.mutable_data<float>(),
                               .tokens = m,
                               .channels = k,
                               .x_stride = k + 3,
                               .out_stride = k,
                               .eps = 1e-5f,
                               .gain_plus_one = false};
        emulated().rms_norm(root);
        const Tensor apart = rounded(packed, m, [&](void* workspace) {
          cuda::int8_round(emulated().context(), again.data<float>(), m, k, packed, workspace);
        });
        EXPECT_TRUE(same_bytes(apart, rounded(packed, m, [&](void* workspace) {
                                 cuda::rms_norm_quantize(emulated().context(), root, packed, workspace);
                               })));
      });
    }
  }
}

TEST(CudaInt8RoundTest, NoOrderOfThreadsShows) {
  QuantizedTensor weight = random_weight(*QuantScheme::parse("int8-g64-asym"), 37, 300);
  weight.activation = ActivationQuant{.symmetric = false};
  const PackedMatrix packed = *cuda::prepack_int8(emulated(), weight);
  Tensor x = *Tensor::allocate(DType::f32, {70, 300});
  const Random random = draw(3);
  for (int64_t i = 0; i < x.numel(); ++i) x.mutable_data<float>()[i] = random.uniform(uint64_t(i)) - 0.3f;
  const Tensor x_there = on_device(x);
  for (const int64_t m : {1, 7, 16, 70}) {
    std::optional<Tensor> first;
    in_all_orders([&] {
      const Tensor workspace = device_bytes(int64_t(cuda::int8_matmul_workspace_bytes(packed, m)));
      const Tensor out = on_device(*Tensor::allocate(DType::f32, {m, 37}));
      cuda::int8_matmul(emulated().context(), {.x = x_there.data<float>(),
                                               .weight = &packed,
                                               .bias = nullptr,
                                               .out = out.mutable_data<float>(),
                                               .m = m,
                                               .n = 37,
                                               .k = 300,
                                               .x_stride = 300,
                                               .out_stride = 37,
                                               .accumulate = false,
                                               .workspace = workspace.mutable_raw()});
      const Tensor result = on_host(out);
      if (!first) first = result;
      EXPECT_TRUE(same_bytes(*first, result));
    });
  }
}

}  // namespace
}  // namespace pare::test
