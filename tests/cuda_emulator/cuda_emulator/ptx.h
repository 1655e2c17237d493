// tests/cuda_emulator/cuda_emulator/ptx.h: what engine/backends/cuda/ptx.h says in assembly, as the PTX manual defines it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace pare::cuda::ptx {

inline uint32_t shared_address(const void* shared) {
  return uint32_t(static_cast<const unsigned char*>(shared) - ::emulator::shared_bytes());
}

inline void cp_async_16(void* shared, const void* global, int bytes = 16) {
  ::emulator::queue_copy(shared, global, bytes, 16);
}
inline void cp_async_16_once(void* shared, const void* global) { ::emulator::queue_copy(shared, global, 16, 16); }
inline void cp_async_commit() { ::emulator::commit_copies(); }
template <int Pending>
inline void cp_async_wait() {
  ::emulator::wait_for_copies(Pending);
}

namespace detail {

struct Matrices {
  const unsigned char* row;
  uint32_t* registers;
  int count;
  bool transposed;
};
// Lane l holds row l / 4, columns 2 (l % 4) and the next, of every 8x8 matrix; transposed: column and row change places.
inline void load_matrices(void* const* slots, unsigned) {
  const int count = static_cast<Matrices*>(slots[0])->count;
  for (int matrix = 0; matrix < count; ++matrix) {
    uint16_t values[8][8];
    for (int row = 0; row < 8; ++row)
      std::memcpy(values[row], static_cast<Matrices*>(slots[8 * matrix + row])->row, 16);
    for (int l = 0; l < 32; ++l) {
      auto& own = *static_cast<Matrices*>(slots[l]);
      const int r = l / 4, c = 2 * (l % 4);
      const uint16_t low = own.transposed ? values[c][r] : values[r][c];
      const uint16_t high = own.transposed ? values[c + 1][r] : values[r][c + 1];
      own.registers[matrix] = uint32_t(low) | uint32_t(high) << 16;
    }
  }
}
inline void ldmatrix(uint32_t* r, const void* row, int count, bool transposed) {
  Matrices own{static_cast<const unsigned char*>(row), r, count, transposed};
  if (::emulator::lane() < 8 * count && reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    std::fprintf(stderr, "cuda_emulator: ldmatrix of an address that is not aligned\n");
    std::abort();
  }
  ::emulator::meet_warp(0xffffffffu, &own, load_matrices, "ldmatrix");
}

struct Product {
  void* d;
  const uint32_t *a, *b;
};

inline float half_value(uint32_t bits, bool is_bf16) {
  if (is_bf16) return std::bit_cast<float>(bits << 16);
  __half h;
  h.x = uint16_t(bits);
  return __half2float(h);
}

// m16n8k16: a register r of lane l holds row l / 4 + 8 (r % 2), columns 2 (l % 4) + 8 (r / 2) and the next; b register r
// rows 2 (l % 4) + 8 r and the next, column l / 4; d register r row l / 4 + 8 (r / 2), column 2 (l % 4) + r % 2.
template <bool IsBf16>
void multiply_16x8x16(void* const* slots, unsigned) {
  float a[16][16], b[16][8];
  for (int l = 0; l < 32; ++l) {
    const auto& own = *static_cast<Product*>(slots[l]);
    for (int r = 0; r < 4; ++r) {
      for (int half = 0; half < 2; ++half)
        a[l / 4 + 8 * (r % 2)][2 * (l % 4) + 8 * (r / 2) + half] =
            half_value(own.a[r] >> (16 * half) & 0xffff, IsBf16);
    }
    for (int r = 0; r < 2; ++r) {
      for (int half = 0; half < 2; ++half)
        b[2 * (l % 4) + 8 * r + half][l / 4] = half_value(own.b[r] >> (16 * half) & 0xffff, IsBf16);
    }
  }
  for (int l = 0; l < 32; ++l) {
    auto* d = static_cast<float*>(static_cast<Product*>(slots[l])->d);
    for (int r = 0; r < 4; ++r) {
      const int row = l / 4 + 8 * (r / 2), column = 2 * (l % 4) + r % 2;
      float sum = d[r];
      for (int k = 0; k < 16; ++k) sum = std::fma(a[row][k], b[k][column], sum);
      d[r] = sum;
    }
  }
}

// m16n8k32 of bytes: a register r of lane l holds row l / 4 + 8 (r % 2), columns 4 (l % 4) + 16 (r / 2) and three more;
// b register r rows 4 (l % 4) + 16 r and three more, column l / 4.
inline void multiply_16x8x32_s8(void* const* slots, unsigned) {
  int a[16][32], b[32][8];
  for (int l = 0; l < 32; ++l) {
    const auto& own = *static_cast<Product*>(slots[l]);
    for (int r = 0; r < 4; ++r) {
      for (int i = 0; i < 4; ++i)
        a[l / 4 + 8 * (r % 2)][4 * (l % 4) + 16 * (r / 2) + i] = int8_t(own.a[r] >> (8 * i));
    }
    for (int r = 0; r < 2; ++r) {
      for (int i = 0; i < 4; ++i) b[4 * (l % 4) + 16 * r + i][l / 4] = int8_t(own.b[r] >> (8 * i));
    }
  }
  for (int l = 0; l < 32; ++l) {
    auto* d = static_cast<int32_t*>(static_cast<Product*>(slots[l])->d);
    for (int r = 0; r < 4; ++r) {
      const int row = l / 4 + 8 * (r / 2), column = 2 * (l % 4) + r % 2;
      for (int k = 0; k < 32; ++k) d[r] += a[row][k] * b[k][column];
    }
  }
}

struct SparseProduct {
  float* d;
  const uint32_t *a, *b;
  uint32_t places;
  int selector;
};

// m16n8k32, two of four columns of a kept: a registers like m16n8k16 of the kept ones, that is register r of lane l holds
// row l / 4 + 8 (r % 2), the pair of columns 4 (l % 4) + 16 (r / 2) and three more; b register r rows 2 (l % 4) + 8 r and
// the next, column l / 4. Lane 4 g + 2 selector + u tells columns 16 u to 16 u + 15 of rows g (low half) and g + 8.
template <bool IsBf16>
void multiply_sparse_16x8x32(void* const* slots, unsigned) {
  float a[16][32] = {}, b[32][8];
  const int selector = static_cast<SparseProduct*>(slots[0])->selector;
  for (int l = 0; l < 32; ++l) {
    const auto& own = *static_cast<SparseProduct*>(slots[l]);
    for (int r = 0; r < 4; ++r) {
      const int row = l / 4 + 8 * (r % 2), upper = r / 2;
      const uint32_t word = static_cast<SparseProduct*>(slots[4 * (l / 4) + 2 * selector + upper])->places;
      const uint32_t pair = word >> (16 * (r % 2) + 4 * (l % 4)) & 15;
      if ((pair & 3) >= pair >> 2) {
        std::fprintf(stderr, "cuda_emulator: places of mma.sp do not rise\n");
        std::abort();
      }
      for (int half = 0; half < 2; ++half) {
        const int column = 16 * upper + 4 * (l % 4) + int(pair >> (2 * half) & 3);
        a[row][column] = half_value(own.a[r] >> (16 * half) & 0xffff, IsBf16);
        b[2 * (l % 4) + 8 * r + half][l / 4] = half_value(own.b[r] >> (16 * half) & 0xffff, IsBf16);
      }
    }
  }
  for (int l = 0; l < 32; ++l) {
    float* d = static_cast<SparseProduct*>(slots[l])->d;
    for (int r = 0; r < 4; ++r) {
      const int row = l / 4 + 8 * (r / 2), column = 2 * (l % 4) + r % 2;
      float sum = d[r];
      for (int k = 0; k < 32; ++k) {
        if (a[row][k] != 0.0f) sum = std::fma(a[row][k], b[k][column], sum);
      }
      d[r] = sum;
    }
  }
}

}  // namespace detail

template <int Selector>
void mma_sparse_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t places) {
  detail::SparseProduct own{d, a, b, places, Selector};
  ::emulator::meet_warp(0xffffffffu, &own, detail::multiply_sparse_16x8x32<true>, "mma.sp bf16");
}
template <int Selector>
void mma_sparse_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t places) {
  detail::SparseProduct own{d, a, b, places, Selector};
  ::emulator::meet_warp(0xffffffffu, &own, detail::multiply_sparse_16x8x32<false>, "mma.sp f16");
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { detail::ldmatrix(r, row, 4, false); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { detail::ldmatrix(r, row, 4, true); }

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  detail::Product own{d, a, b};
  ::emulator::meet_warp(0xffffffffu, &own, detail::multiply_16x8x16<true>, "mma bf16");
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  detail::Product own{d, a, b};
  ::emulator::meet_warp(0xffffffffu, &own, detail::multiply_16x8x16<false>, "mma f16");
}
inline void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  detail::Product own{d, a, b};
  ::emulator::meet_warp(0xffffffffu, &own, detail::multiply_16x8x32_s8, "mma s8");
}

inline uint4 load_once(const void* global) {
  if (reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    std::fprintf(stderr, "cuda_emulator: 16-byte load of an address that is not aligned\n");
    std::abort();
  }
  uint4 v;
  std::memcpy(&v, global, 16);
  return v;
}

template <int Table>
inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result = 0;
  for (int i = 0; i < 8; ++i) {
    if ((Table >> i & 1) == 0) continue;
    result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return result;
}

inline uint32_t fma_bf16(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const auto value = [&](uint32_t pair) { return double(std::bit_cast<float>(pair >> shift << 16)); };
    result |= uint32_t(pare::float_to_bf16(float(value(a) * value(b) + value(c)))) << shift;
  }
  return result;
}

inline float exp2_fast(float x) { return std::exp2(x); }
inline void wait_for_predecessor() {}
inline void release_successor() {}

}  // namespace pare::cuda::ptx
