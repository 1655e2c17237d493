#include "tests/engine/backends/test_backends.h"

#include <cmath>
#include <cstring>
#include <map>

#include "engine/backends/check/check_backend.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/backends/reference/reference_backend.h"
#include "engine/tensor/float_formats.h"
#include "tests/engine/backends/host_view.h"

namespace pare::test {
namespace {

constexpr float kPadding = 12345.0f;

Random draw(uint64_t seed) {
  return Random(seed, RandomPurpose::test_data);
}

void store(const Tensor& tensor, int64_t index, float value) {
  switch (tensor.dtype()) {
    case DType::f32:
      tensor.mutable_data<float>()[index] = value;
      break;
    case DType::bf16:
      tensor.mutable_data<uint16_t>()[index] = float_to_bf16(value);
      break;
    default:
      tensor.mutable_data<uint16_t>()[index] = float_to_f16(value);
      break;
  }
}

#ifdef PARE_TEST_GPU
// A GPU sees the tensors of these tests where they are: in pinned memory.
const bool kPinned = [] {
  Storage::set_host_memory(cuda::allocate_pinned, cuda::free_pinned);
  return true;
}();
#endif

}  // namespace

std::vector<TestBackend> test_backends() {
  std::vector<TestBackend> list{{"reference", [] { return make_reference_backend(); }}};
  for (const cpu::Isa level : {cpu::Isa::generic, cpu::Isa::avx2, cpu::Isa::avx512}) {
    if (level > cpu::host_isa()) break;
    list.push_back({"cpu_" + std::string(cpu::isa_name(level)), [level] { return make_cpu_backend(level); }});
  }
#ifndef PARE_TEST_NO_DEVICE
  for (const cuda::MathMode math : {cuda::MathMode::f32, cuda::MathMode::bf16}) {
    list.push_back({math == cuda::MathMode::f32 ? "cuda_f32" : "cuda_bf16", [math] {
                      auto gpu = make_cuda_backend(0, {.math = math});
                      PARE_ASSERT(gpu.has_value(), "[test_backends] {}",
                                  gpu ? "" : format_error(gpu.error()));
                      return make_host_view(*std::move(gpu));
                    }});
  }
#endif
  return list;
}

std::vector<std::string> test_backend_names() {
  std::vector<std::string> names;
  for (const TestBackend& backend : test_backends()) names.push_back(backend.name);
  return names;
}

Backend& oracle() {
  static const std::unique_ptr<Backend> backend = make_reference_backend();
  return *backend;
}

Backend& tested_backend(const std::string& name) {
  static std::map<std::string, std::unique_ptr<Backend>> made;
  std::unique_ptr<Backend>& backend = made[name];
  for (const TestBackend& candidate : test_backends()) {
    if (!backend && candidate.name == name) backend = candidate.make();
  }
  return *backend;
}

void BackendTest::SetUp() {
  static std::string installed;
  if (installed == GetParam()) return;
  installed = GetParam();
  install_backend(make_check_backend(tested(), oracle()));
}

Tensor zeros(DType dtype, const Shape& shape) {
  return *Tensor::allocate(dtype, shape, Device::check());
}

Tensor uniform(const Shape& shape, uint64_t seed, float low, float high, DType dtype) {
  const Tensor tensor = zeros(dtype, shape);
  const Random random = draw(seed);
  for (int64_t i = 0; i < tensor.numel(); ++i)
    store(tensor, i, low + (high - low) * random.uniform(uint64_t(i)));
  return tensor;
}

Tensor integers(const Shape& shape, uint64_t seed, int low, int high, DType dtype) {
  const Tensor tensor = zeros(dtype, shape);
  const Random random = draw(seed);
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    store(tensor, i, float(low + int(random.below(uint64_t(high - low + 1), uint64_t(i)))));
  }
  return tensor;
}

Tensor indices(const std::vector<int32_t>& values) {
  const Tensor tensor = zeros(DType::i32, {int64_t(values.size())});
  for (size_t i = 0; i < values.size(); ++i) tensor.mutable_data<int32_t>()[i] = values[i];
  return tensor;
}

Tensor copy_of(const Tensor& tensor) {
  const Tensor copy = zeros(tensor.dtype(), tensor.shape());
  const int64_t columns = tensor.size(-1);
  if (columns == 0) return copy;
  const auto width = size_t(dtype_bytes(tensor.dtype()));
  for (int64_t row = 0; row < tensor.numel() / columns; ++row) {
    std::memcpy(copy.mutable_raw() + size_t(row * columns) * width,
                tensor.raw() + size_t(row * tensor.row_stride()) * width, size_t(columns) * width);
  }
  return copy;
}

Padded::Padded(int64_t rows, int64_t columns, int64_t padding)
    : whole_(zeros(DType::f32, {rows, columns + padding})) {
  float* data = whole_.mutable_data<float>();
  for (int64_t i = 0; i < whole_.numel(); ++i) data[i] = kPadding;
  view_ = whole_.columns(2, columns + 2);
}

Padded::Padded(const Tensor& content, int64_t padding) : Padded(content.size(0), content.size(1), padding) {
  for (int64_t r = 0; r < content.size(0); ++r) {
    std::memcpy(view_.mutable_data<float>() + r * view_.row_stride(),
                content.data<float>() + r * content.row_stride(), size_t(content.size(1)) * sizeof(float));
  }
}

bool Padded::padding_is_intact() const {
  for (int64_t r = 0; r < whole_.size(0); ++r) {
    for (int64_t c = 0; c < whole_.size(1); ++c) {
      const bool inside = c >= 2 && c < 2 + view_.size(1);
      if (!inside && whole_.data<float>()[r * whole_.size(1) + c] != kPadding) return false;
    }
  }
  return true;
}

double value_at(const Tensor& matrix, int64_t row, int64_t column) {
  const int64_t index = row * matrix.row_stride() + column;
  switch (matrix.dtype()) {
    case DType::f32:
      return double(matrix.data<float>()[index]);
    case DType::bf16:
      return double(bf16_to_float(matrix.data<uint16_t>()[index]));
    default:
      return double(f16_to_float(matrix.data<uint16_t>()[index]));
  }
}

QuantizedTensor random_codes(const QuantScheme& scheme, int64_t out, int64_t in, uint64_t seed,
                             bool unit_scales) {
  QuantizedTensor tensor = *QuantizedTensor::allocate(scheme, out, in);
  const Random random = draw(seed);
  std::vector<uint8_t> codes(static_cast<size_t>(in));
  for (int64_t row = 0; row < out; ++row) {
    for (int64_t column = 0; column < in; ++column) {
      const auto index = uint64_t(row * in + column);
      uint8_t code = uint8_t(random.below(uint64_t(scheme.code_count()), index));
      if (scheme.kind == QuantScheme::Kind::floating && !std::isfinite(f8_e4m3_to_float(code))) code = 0x7e;
      if (scheme.kind == QuantScheme::Kind::floating && scheme.float_type == DType::f8_e5m2)
        code &= 0xbb;  // finite
      const bool narrow = scheme.kind == QuantScheme::Kind::integer && scheme.is_symmetric() &&
                          scheme.range == QuantScheme::Range::narrow;
      if (narrow && code == 0) code = 1;
      codes[size_t(column)] = code;
    }
    pack_codes(codes.data(), in, scheme.bits,
               tensor.codes.mutable_data<uint8_t>() + row * scheme.row_bytes(in));
  }
  for (int64_t i = 0; i < tensor.scales.numel(); ++i) {
    store(tensor.scales, i, unit_scales ? 1.0f : 0.01f + 0.05f * random.uniform(uint64_t(i), 1));
    if (tensor.zero_points.defined()) {
      tensor.zero_points.mutable_data<uint8_t>()[i] =
          uint8_t(random.below(uint64_t(scheme.code_count()), uint64_t(i), 2));
    }
    if (tensor.minimums.defined()) {
      store(tensor.minimums, i,
            unit_scales ? -float(random.below(4, uint64_t(i), 3)) : -random.uniform(uint64_t(i), 3));
    }
  }
  return tensor;
}

testing::AssertionResult same_bits(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) {
    return testing::AssertionFailure() << a.shape().text() << " and " << b.shape().text();
  }
  const Tensor left = copy_of(a), right = copy_of(b);
  const auto width = size_t(dtype_bytes(a.dtype()));
  for (int64_t i = 0; i < left.numel(); ++i) {
    if (std::memcmp(left.raw() + size_t(i) * width, right.raw() + size_t(i) * width, width) == 0) continue;
    const int64_t columns = a.size(-1);
    auto result = testing::AssertionFailure();
    result << a.shape().text() << " differ first at [" << i / columns << ", " << i % columns << "]";
    if (a.dtype() == DType::f32) result << ": " << left.data<float>()[i] << " and " << right.data<float>()[i];
    return result;
  }
  return testing::AssertionSuccess();
}

}  // namespace pare::test
