#include "bench/probes.h"

#include <fcntl.h>
#include <immintrin.h>
#include <sys/mman.h>
#include <unistd.h>

#include <charconv>
#include <cstring>

#include "engine/backends/cpu/isa.h"
#include "engine/backends/cpu/multiply_add_peak.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"

namespace pare::bench {
namespace {

constexpr int64_t kFmaSteps = 200'000;

// What a compiler must believe to be used.
void keep(float value) {
  asm volatile("" : : "x"(value));
}

__attribute__((target("avx512f"))) void read_avx512(const std::byte* data, int64_t bytes) {
  __m512i part[4] = {};
  for (int64_t i = 0; i + 256 <= bytes; i += 256) {
    for (int j = 0; j < 4; ++j) part[j] = _mm512_or_si512(part[j], _mm512_loadu_si512(data + i + 64 * j));
  }
  const __m512i all = _mm512_or_si512(_mm512_or_si512(part[0], part[1]), _mm512_or_si512(part[2], part[3]));
  keep(float(_mm512_reduce_or_epi32(all)));
}

__attribute__((target("avx2"))) void read_avx2(const std::byte* data, int64_t bytes) {
  __m256i part[4] = {};
  for (int64_t i = 0; i + 128 <= bytes; i += 128) {
    for (int j = 0; j < 4; ++j) {
      part[j] =
          _mm256_or_si256(part[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + i + 32 * j)));
    }
  }
  const __m256i all = _mm256_or_si256(_mm256_or_si256(part[0], part[1]), _mm256_or_si256(part[2], part[3]));
  keep(float(_mm256_extract_epi32(all, 0)));
}

void read_generic(const std::byte* data, int64_t bytes) {
  uint64_t part[4] = {};
  for (int64_t i = 0; i + 32 <= bytes; i += 32) {
    for (int j = 0; j < 4; ++j) {
      uint64_t word;
      std::memcpy(&word, data + i + 8 * j, 8);
      part[j] |= word;
    }
  }
  keep(float(part[0] | part[1] | part[2] | part[3]));
}

void read_stream(const std::byte* data, int64_t bytes) {
  switch (cpu::best_isa()) {
    case cpu::Isa::avx512:
      return read_avx512(data, bytes);
    case cpu::Isa::avx2:
      return read_avx2(data, bytes);
    case cpu::Isa::generic:
      break;
  }
  read_generic(data, bytes);
}

}  // namespace

std::string_view probe_name(Probe probe, int threads) {
  switch (probe) {
    case Probe::cpu_read:
      return threads == 1 ? "cpu.read1" : "cpu.read2";
    case Probe::cpu_copy:
      return "cpu.copy";
    case Probe::cpu_fma_f32:
      break;
  }
  return "cpu.fma_f32";
}

std::string kernel_text(const char* path) {
  std::string text;
  const int file = ::open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return text;
  char part[4096];
  for (ssize_t count; (count = ::read(file, part, sizeof part)) > 0;) text.append(part, size_t(count));
  ::close(file);
  return text;
}

// What the kernel tells of the caches; the C library may give the sum over all parts of a large processor, of
// which a virtual machine has one.
int64_t last_level_cache_bytes() {
  static const int64_t bytes = [] {
    const std::string text = kernel_text("/sys/devices/system/cpu/cpu0/cache/index3/size");  // "32768K"
    int64_t kib = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), kib).ec == std::errc() && kib > 0)
      return kib << 10;
    return int64_t{32} << 20;
  }();
  return bytes;
}

// Memory in huge pages where the system gives them, as the weights of a model are: the limit must not be
// lower than what it limits. Touched once.
struct Probes::Buffers {
  struct Unmap {
    size_t bytes;
    void operator()(std::byte* data) const { ::munmap(data, bytes); }
  };
  using Buffer = std::unique_ptr<std::byte, Unmap>;

  static Buffer make(size_t bytes) {
    void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    PARE_ASSERT(data != MAP_FAILED, "[bench] no memory for a probe of {} bytes", bytes);
    (void)::madvise(data, bytes, MADV_HUGEPAGE);
    std::memset(data, 1, bytes);
    return Buffer(static_cast<std::byte*>(data), Unmap{bytes});
  }

  size_t bytes = size_t(8 * last_level_cache_bytes());
  Buffer read = make(bytes);
  Buffer write{nullptr, Unmap{0}};  // made by the first copy
};

Probes::Probes() : buffers_(std::make_unique<Buffers>()) {}
Probes::~Probes() = default;

double Probes::work(Probe probe) const {
  const double bytes = double(buffers_->bytes);
  switch (probe) {
    case Probe::cpu_read:
      return bytes;
    case Probe::cpu_copy:
      return 2.0 * bytes;
    case Probe::cpu_fma_f32:
      break;
  }
  return cpu::multiply_add_operations(kFmaSteps) * thread_count();
}

void Probes::run(Probe probe) {
  const auto bytes = int64_t(buffers_->bytes);
  constexpr int64_t kPiece = 1 << 20;
  const std::byte* from = buffers_->read.get();
  if (probe == Probe::cpu_read) {
    parallel_ranges(bytes, kPiece,
                    [&](int64_t begin, int64_t end) { read_stream(from + begin, end - begin); });
  } else if (probe == Probe::cpu_copy) {
    if (buffers_->write == nullptr) buffers_->write = Buffers::make(buffers_->bytes);
    std::byte* to = buffers_->write.get();
    parallel_ranges(bytes, kPiece, [&](int64_t begin, int64_t end) {
      std::memcpy(to + begin, from + begin, size_t(end - begin));
    });
  } else {
    parallel_for(thread_count(), [](int64_t) { cpu::run_multiply_adds(kFmaSteps); });
  }
}

}  // namespace pare::bench
