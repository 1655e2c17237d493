#include "engine/backends/reference/reference_backend.h"

#include "engine/backends/reference/backend_class.h"
#include "engine/tensor/storage.h"

namespace pare {

std::unique_ptr<Backend> make_reference_backend() {
  return std::make_unique<reference::ReferenceBackend>();
}

namespace reference {

Result<std::shared_ptr<Storage>> ReferenceBackend::allocate(size_t bytes) {
  return Storage::allocate(bytes, device());
}

}  // namespace reference
}  // namespace pare
