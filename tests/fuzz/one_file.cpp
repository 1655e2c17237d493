#include "tests/fuzz/one_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

namespace pare::fuzz {

OneFile::OneFile(const uint8_t* data, size_t size) : descriptor_(::memfd_create("fuzzed", MFD_CLOEXEC)) {
  if (descriptor_ < 0) std::abort();
  size_t done = 0;
  while (done < size) {
    const ssize_t bytes = ::write(descriptor_, data + done, size - done);
    if (bytes <= 0) std::abort();
    done += static_cast<size_t>(bytes);
  }
  path_ = "/proc/self/fd/" + std::to_string(descriptor_);
}

OneFile::~OneFile() {
  ::close(descriptor_);
}

}  // namespace pare::fuzz
