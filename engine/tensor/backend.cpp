#include "engine/tensor/backend.h"

#include <cstring>

#include "engine/core/assert.h"
#include "engine/core/file.h"
#include "engine/core/parallel.h"

namespace pare {
namespace {

constexpr int64_t kRowsAtOnce = 16;

// Every backend that was installed, the replaced ones too: others may hold references to them.
std::vector<std::unique_ptr<Backend>>& backends() {
  static std::vector<std::unique_ptr<Backend>> list;
  return list;
}

Backend* find_backend(Device device) {
  auto& list = backends();
  for (auto backend = list.rbegin(); backend != list.rend(); ++backend) {
    if ((*backend)->device() == device) return backend->get();
  }
  return nullptr;
}

}  // namespace

SparseSummary SparseSummary::of(const SparseTensor& weight) {
  return {.pattern = weight.pattern,
          .out = weight.out(),
          .in = weight.in(),
          .density = 1.0 - weight.sparsity(),
          .value_dtype = weight.has_codes() ? DType::u8 : weight.values.dtype(),
          .scheme = weight.scheme,
          .rounds_inputs = weight.activation.has_value()};
}

// What hosts do. A backend with memory of its own overrides all of it.
Status Backend::upload(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return {};
}

Status Backend::download(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return {};
}

void Backend::prefetch(std::span<const HostRange> ranges) {
  for (const HostRange& range : ranges) read_ahead(range.bytes);
}

Status Backend::finish() {
  return {};
}

void Backend::zero(void* to, size_t bytes) {
  if (bytes > 0) std::memset(to, 0, bytes);
}

void Backend::copy_rows(const CopyRowsArgs& a) {
  const auto* from = static_cast<const std::byte*>(a.x);
  auto* to = static_cast<std::byte*>(a.out);
  for (int64_t row = 0; row < a.rows; ++row)
    std::memcpy(to + row * a.out_stride, from + row * a.x_stride, size_t(a.width));
}

void Backend::positions(const PositionsArgs& a) {
  for (int64_t i = 0; i < a.count; ++i) a.out[i] = int32_t(a.first + i % a.period);
}

void Backend::gather_rows(const GatherRowsArgs& a) {
  parallel_ranges(a.count, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      std::memcpy(a.out + i * a.out_stride, a.x + a.index[i] / a.divisor * a.x_stride,
                  size_t(a.channels) * sizeof(float));
  });
}

void Backend::scatter_rows(const ScatterRowsArgs& a) {
  parallel_ranges(a.count, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float scale = a.scales[a.index[i]];
      const float* from = a.x + i * a.x_stride;
      float* to = a.out + a.index[i] / a.divisor * a.out_stride;
      for (int64_t c = 0; c < a.channels; ++c) to[c] += scale * from[c];
    }
  });
}

void install_backend(std::unique_ptr<Backend> backend) {
  PARE_ASSERT(backend != nullptr, "[backend] nothing to install");
  backends().push_back(std::move(backend));
}

Backend& backend_for(Device device) {
  Backend* backend = find_backend(device);
  PARE_ASSERT(backend != nullptr, "[backend] none installed for {}", device.name());
  return *backend;
}

bool has_backend(Device device) {
  return find_backend(device) != nullptr;
}

std::vector<Backend*> installed_backends() {
  std::vector<Backend*> result;
  for (const auto& backend : backends()) {
    if (find_backend(backend->device()) == backend.get()) result.push_back(backend.get());
  }
  return result;
}

}  // namespace pare
