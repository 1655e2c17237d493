// tests/cuda_emulator/cuda_emulator/simt.h: runs kernels on the host, thread by thread.
//
// A block's threads are fibers of one host thread; blocks run one after the other. Operations of a warp and barriers are
// meetings: the last to come does the work for all, then everybody goes on. Whoever waits for threads that never come is
// reported with the kernel's name. The order in which threads and blocks get their turn can be chosen: results that
// depend on it come from a missing barrier.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace emulator {

struct Uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}  // NOLINT: as in CUDA
};

enum class Order { forward, reverse, shuffled };
// For all launches from now on, in this process.
void set_order(Order order, uint64_t seed = 0);

// Runs body() for every thread of the grid.
void run_grid(const char* name, Dim3 grid, Dim3 block, size_t shared_bytes, const std::function<void()>& body);

// Within a kernel:
unsigned char* shared_bytes();  // dynamic shared memory, 128-byte aligned, filled with 0xff
int lane();                     // 0 .. 31
int warp_in_block();
// The lanes of `mask` meet; the last one calls work(slots, mask), where slots[l] is what lane l brought.
using Work = void (*)(void* const* slots, unsigned mask);
void meet_warp(unsigned mask, void* slot, Work work, const char* what);
// `count` threads of the block meet at barrier `id` (0: all threads that have not ended).
void meet_block(int id, int count);
// All threads of the block meet and each brings a value; the sum of them is returned to all.
int block_sum(int value);
// Lets others run; for loops that wait for memory to change.
void poll();

// Copies that land when the thread waits for them (cp.async).
void queue_copy(void* to, const void* from, int bytes, int width);  // the rest up to width is zeroed
void commit_copies();
void wait_for_copies(int pending_groups);

}  // namespace emulator
