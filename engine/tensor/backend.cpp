#include "engine/tensor/backend.h"

#include "engine/core/assert.h"

namespace pare {
namespace {

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
