#include "tests/engine/decode/decode_support.h"

#include <cmath>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/backends/reference/reference_backend.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/transfer.h"
#ifndef PARE_TEST_GPU
#include "cuda_emulator/simt.h"
#endif

namespace pare::test {
namespace {

struct Owned {
  Tensor here, there;
  PackedMatrix packed_here, packed_there;
  std::vector<float> bias_here;
  std::shared_ptr<OnGpu<float>> bias_there;
};

Tensor dense(DType dtype, int64_t out, int64_t in, const std::vector<float>& values) {
  Tensor tensor = checked(Tensor::allocate(DType::f32, {out, in}));
  std::copy(values.begin(), values.end(), tensor.mutable_data<float>());
  return dtype == DType::f32 ? tensor : checked(converted(tensor, dtype));
}

std::shared_ptr<const QuantizedTensor> codes(const std::string& text, int64_t out, int64_t in, uint64_t seed,
                                             bool is_whole) {
  const QuantScheme scheme = checked(QuantScheme::parse(text));
  auto tensor = std::make_shared<QuantizedTensor>(checked(QuantizedTensor::allocate(scheme, out, in)));
  const Random random(seed, RandomPurpose::test_data);
  std::vector<uint8_t> row(static_cast<size_t>(in));
  for (int64_t r = 0; r < out; ++r) {
    for (int64_t c = 0; c < in; ++c)
      row[size_t(c)] = uint8_t(1 + random.below(uint64_t(scheme.code_count() - 1), uint64_t(r * in + c)));
    pack_codes(row.data(), in, scheme.bits, tensor->codes.mutable_data<uint8_t>() + r * scheme.row_bytes(in));
  }
  for (int64_t i = 0; i < tensor->scales.numel(); ++i) {
    const float scale = is_whole ? 1.0f : 0.01f + 0.02f * random.uniform(uint64_t(i), 1);
    tensor->scales.mutable_data<uint16_t>()[i] =
        tensor->scales.dtype() == DType::bf16 ? float_to_bf16(scale) : float_to_f16(scale);
    if (tensor->zero_points.defined())
      tensor->zero_points.mutable_data<uint8_t>()[i] =
          uint8_t(random.below(uint64_t(scheme.code_count()), uint64_t(i), 2));
  }
  return tensor;
}

}  // namespace

Backend& gpu() {
  static Backend* const backend = [] {
    install_backend(make_cpu_backend());
    install_backend(make_reference_backend());
    install_backend(checked(make_cuda_backend(0, {.math = cuda::MathMode::bf16})));
    return &backend_for(Device::cuda(0));
  }();
  return *backend;
}

DecodeBackend& definition() {
  static const std::unique_ptr<DecodeBackend> decoding = make_reference_decode();
  return *decoding;
}

std::vector<float> random_floats(int64_t count, uint64_t seed, float low, float high) {
  std::vector<float> values(static_cast<size_t>(count));
  const Random random(seed, RandomPurpose::test_data);
  for (size_t i = 0; i < values.size(); ++i) values[i] = low + (high - low) * random.uniform(i);
  return values;
}

std::vector<float> random_whole(int64_t count, uint64_t seed, int low, int high) {
  std::vector<float> values(static_cast<size_t>(count));
  const Random random(seed, RandomPurpose::test_data);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = float(low + int(random.below(uint64_t(high - low + 1), i)));
  return values;
}

TwinMatrix make_matrix(const std::string& kind, int64_t out, int64_t in, uint64_t seed, bool is_whole,
                       bool has_bias) {
  TwinMatrix twin;
  auto owned = std::make_shared<Owned>();
  twin.here = {.out = out, .in = in};
  twin.there = twin.here;
  Tensor values;
  if (kind == "f32" || kind == "bf16" || kind == "f16") {
    const DType dtype = kind == "f32" ? DType::f32 : kind == "bf16" ? DType::bf16 : DType::f16;
    owned->here =
        dense(dtype, out, in, is_whole ? random_whole(out * in, seed) : random_floats(out * in, seed));
    owned->there = checked(moved(owned->here, Device::cuda(0)));
    twin.here.dense = owned->here.raw();
    twin.there.dense = owned->there.raw();
    twin.here.dtype = twin.there.dtype = dtype;
    values = checked(converted(owned->here, DType::f32));
  } else {
    const auto tensor = codes(kind, out, in, seed, is_whole);
    gpu();
    owned->packed_here = checked(backend_for(Device::reference()).prepack(tensor));
    owned->packed_there = checked(gpu().prepack(tensor));
    twin.here.packed = &owned->packed_here;
    twin.there.packed = &owned->packed_there;
    values = checked(tensor->dequantize());
  }
  for (int64_t r = 0; r < out; ++r) {
    double squares = 0.0;
    for (int64_t c = 0; c < in; ++c) squares += std::pow(double(values.data<float>()[r * in + c]), 2);
    twin.row_norms.push_back(std::sqrt(squares));
  }
  if (has_bias) {
    owned->bias_here = is_whole ? random_whole(out, seed + 1) : random_floats(out, seed + 1);
    owned->bias_there = std::make_shared<OnGpu<float>>(owned->bias_here);
    twin.here.bias = owned->bias_here.data();
    twin.there.bias = owned->bias_there->data();
  }
  twin.owners.push_back(owned);
  return twin;
}

void set_order([[maybe_unused]] int order) {
#ifndef PARE_TEST_GPU
  if (order == 0) emulator::set_order(emulator::Order::forward);
  if (order == 1) emulator::set_order(emulator::Order::reverse);
  if (order > 1) emulator::set_order(emulator::Order::shuffled, uint64_t(order));
#endif
}

}  // namespace pare::test
