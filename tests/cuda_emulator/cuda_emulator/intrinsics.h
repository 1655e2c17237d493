// tests/cuda_emulator/cuda_emulator/intrinsics.h: functions that kernels call without a header.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda_emulator/builtins.h"

namespace emulator {

template <typename T>
struct Exchange {
  T value, result;
  int source;  // -1: its own
};

template <typename T>
T shuffle(unsigned mask, T value, int source, const char* what) {
  Exchange<T> own{value, value, source};
  meet_warp(
      mask, &own,
      [](void* const* slots, unsigned lanes) {
        for (int l = 0; l < 32; ++l) {
          if ((lanes >> l & 1) == 0) continue;
          auto& exchange = *static_cast<Exchange<T>*>(slots[l]);
          if (exchange.source < 0) continue;
          // reading a lane outside of the mask is undefined: make it visible
          if ((lanes >> exchange.source & 1) == 0) {
            std::memset(&exchange.result, 0xff, sizeof(T));
          } else {
            exchange.result = static_cast<Exchange<T>*>(slots[exchange.source])->value;
          }
        }
      },
      what);
  return own.result;
}

struct Vote {
  unsigned predicate, result;
};
inline unsigned ballot(unsigned mask, bool predicate) {
  Vote own{predicate, 0};
  meet_warp(
      mask, &own,
      [](void* const* slots, unsigned lanes) {
        unsigned votes = 0;
        for (int l = 0; l < 32; ++l) {
          if ((lanes >> l & 1) && static_cast<Vote*>(slots[l])->predicate) votes |= 1u << l;
        }
        for (int l = 0; l < 32; ++l) {
          if (lanes >> l & 1) static_cast<Vote*>(slots[l])->result = votes;
        }
      },
      "a ballot");
  return own.result;
}

template <typename T, typename Combine>
T reduce(unsigned mask, T value, Combine) {
  Exchange<T> own{value, value, -1};
  meet_warp(
      mask, &own,
      [](void* const* slots, unsigned lanes) {
        bool is_first = true;
        T total{};
        for (int l = 0; l < 32; ++l) {
          if ((lanes >> l & 1) == 0) continue;
          const T x = static_cast<Exchange<T>*>(slots[l])->value;
          total = is_first ? x : Combine{}(total, x);
          is_first = false;
        }
        for (int l = 0; l < 32; ++l) {
          if (lanes >> l & 1) static_cast<Exchange<T>*>(slots[l])->result = total;
        }
      },
      "a reduction of the warp");
  return own.result;
}

}  // namespace emulator

inline void __syncthreads() { emulator::meet_block(0, 0); }
inline int __syncthreads_count(int predicate) { return emulator::block_sum(predicate != 0); }
inline int __syncthreads_or(int predicate) { return emulator::block_sum(predicate != 0) > 0; }
inline int __syncthreads_and(int predicate) {
  return emulator::block_sum(predicate == 0) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::meet_warp(mask, nullptr, nullptr, "__syncwarp"); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { emulator::poll(); }
inline unsigned __activemask() { return 0xffffffffu; }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int l = emulator::lane();
  return emulator::shuffle(mask, value, (l & ~(width - 1)) | (source & (width - 1)), "__shfl_sync");
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance, int width = 32) {
  const int l = emulator::lane(), source = l ^ distance;
  return emulator::shuffle(mask, value, (source & ~(width - 1)) > (l & ~(width - 1)) ? -1 : source, "__shfl_xor_sync");
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int l = emulator::lane(), source = l + int(distance);
  return emulator::shuffle(mask, value, source / width != l / width ? -1 : source, "__shfl_down_sync");
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int l = emulator::lane(), source = l - int(distance);
  return emulator::shuffle(mask, value, source < (l & ~(width - 1)) ? -1 : source, "__shfl_up_sync");
}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return emulator::ballot(mask, predicate != 0); }
inline int __any_sync(unsigned mask, int predicate) { return emulator::ballot(mask, predicate != 0) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return emulator::ballot(mask, predicate == 0) == 0; }

namespace emulator {
struct Plus { template <typename T> T operator()(T a, T b) const { return T(a + b); } };
struct Least { template <typename T> T operator()(T a, T b) const { return b < a ? b : a; } };
struct Greatest { template <typename T> T operator()(T a, T b) const { return a < b ? b : a; } };
struct BitOr { template <typename T> T operator()(T a, T b) const { return T(a | b); } };
struct BitAnd { template <typename T> T operator()(T a, T b) const { return T(a & b); } };
}  // namespace emulator
template <typename T> T __reduce_add_sync(unsigned mask, T v) { return emulator::reduce(mask, v, emulator::Plus{}); }
template <typename T> T __reduce_min_sync(unsigned mask, T v) { return emulator::reduce(mask, v, emulator::Least{}); }
template <typename T> T __reduce_max_sync(unsigned mask, T v) { return emulator::reduce(mask, v, emulator::Greatest{}); }
inline unsigned __reduce_or_sync(unsigned mask, unsigned v) { return emulator::reduce(mask, v, emulator::BitOr{}); }
inline unsigned __reduce_and_sync(unsigned mask, unsigned v) { return emulator::reduce(mask, v, emulator::BitAnd{}); }
inline unsigned __match_any_sync(unsigned mask, unsigned value) {
  unsigned result = 0;
  for (int l = 0; l < 32; ++l) {
    if ((mask >> l & 1) == 0) continue;
    if (emulator::shuffle(mask, value, l, "__match_any_sync") == value) result |= 1u << l;
  }
  return result;
}

// Atomics
template <typename T> T atomicAdd(T* at, T v) {
  if constexpr (std::is_integral_v<T>) {
    return std::atomic_ref<T>(*at).fetch_add(v);
  } else {
    const T old = *at;
    *at = old + v;
    return old;
  }
}
inline int atomicAdd(int* at, unsigned v) { return std::atomic_ref<int>(*at).fetch_add(int(v)); }
inline unsigned atomicAdd(unsigned* at, int v) { return std::atomic_ref<unsigned>(*at).fetch_add(unsigned(v)); }
template <typename T> T atomicSub(T* at, T v) { return std::atomic_ref<T>(*at).fetch_sub(v); }
template <typename T> T atomicMax(T* at, T v) { const T old = *at; *at = old < v ? v : old; return old; }
template <typename T> T atomicMin(T* at, T v) { const T old = *at; *at = v < old ? v : old; return old; }
template <typename T> T atomicOr(T* at, T v) { return std::atomic_ref<T>(*at).fetch_or(v); }
template <typename T> T atomicAnd(T* at, T v) { return std::atomic_ref<T>(*at).fetch_and(v); }
template <typename T> T atomicXor(T* at, T v) { return std::atomic_ref<T>(*at).fetch_xor(v); }
template <typename T> T atomicExch(T* at, T v) { const T old = *at; *at = v; return old; }
template <typename T> T atomicCAS(T* at, T compare, T v) { const T old = *at; if (old == compare) *at = v; return old; }
inline unsigned atomicInc(unsigned* at, unsigned limit) { const unsigned old = *at; *at = old >= limit ? 0 : old + 1; return old; }

// Bits
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline int __clzll(long long x) { return std::countl_zero((unsigned long long)(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(unsigned(x)) + 1; }
inline int __ffsll(long long x) { return x == 0 ? 0 : std::countr_zero((unsigned long long)(x)) + 1; }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1u) << (31 - i);
  return r;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t(y) << 32 | x;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned s = selector >> (4 * i) & 0xf;
    unsigned b = unsigned(bytes >> (8 * (s & 7))) & 0xff;
    if (s & 8) b = (b & 0x80) ? 0xff : 0;
    r |= b << (8 * i);
  }
  return r;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned((((uint64_t(high) << 32) | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((uint64_t(high) << 32) | low) >> (shift & 31));
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += int(int8_t(unsigned(a) >> (8 * i))) * int(int8_t(unsigned(b) >> (8 * i)));
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; ++i) c += (a >> (8 * i) & 0xff) * (b >> (8 * i) & 0xff);
  return c;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}

// Numbers
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline float rsqrtf(float x) { return float(1.0 / std::sqrt(double(x))); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __saturatef(float x) { return x < 0.0f ? 0.0f : x > 1.0f ? 1.0f : x; }
inline int __float2int_rn(float x) { return int(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return int(x); }
inline int __float2int_rd(float x) { return int(std::floor(x)); }
inline unsigned __float2uint_rn(float x) { return unsigned(std::nearbyint(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __double2float_rn(double x) { return float(x); }
template <typename T> T __ldg(const T* at) { return *at; }
template <typename T> T __ldcs(const T* at) { return *at; }
template <typename T> T __ldcg(const T* at) { return *at; }
template <typename T> void __stcs(T* at, T v) { *at = v; }
template <typename T> void __stcg(T* at, T v) { *at = v; }
using std::max;
using std::min;
inline float max(float a, float b) { return std::fmax(a, b); }
inline float min(float a, float b) { return std::fmin(a, b); }
inline int64_t max(int64_t a, int b) { return a < b ? b : a; }
inline int64_t min(int64_t a, int b) { return b < a ? b : a; }
inline int64_t max(int a, int64_t b) { return a < b ? b : a; }
inline int64_t min(int a, int64_t b) { return b < a ? b : a; }
