#include "cuda_emulator/simt.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_emulator/builtins.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#endif
#ifdef EMULATOR_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

__thread emulator::Uint3 threadIdx, blockIdx;
__thread emulator::Dim3Pod blockDim, gridDim;

// Saves the registers that a call must keep, and the stack pointer at *save; continues where `load` was
// saved.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");

namespace emulator {
namespace {

constexpr size_t kStackBytes = 256 * 1024;

enum class State : uint8_t { fresh, ready, waiting_warp, waiting_block, done };

struct Copy {
  void* to;
  const void* from;
  int bytes, width;
};

struct Thread {
  State state = State::fresh;
  Uint3 index;
  int number = 0;
  void* stack_pointer = nullptr;
  unsigned char* stack = nullptr;
  void* fake_stack = nullptr;  // of ASan
  const char* waits_for = nullptr;
  int barrier = 0, barrier_count = 0;
  bool polls = false;
  int brought = 0;
  std::vector<Copy> open_group;
  std::deque<std::vector<Copy>> groups;
};

struct Warp {
  void* slots[32] = {};
  unsigned masks[32] = {};
  Work works[32] = {};
  unsigned arrived = 0;
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  int alive = 0;
  int sum = 0;
  struct FreeAligned {
    void operator()(unsigned char* bytes) const { ::operator delete[](bytes, std::align_val_t{128}); }
  };
  std::unique_ptr<unsigned char[], FreeAligned> shared_owner;
  unsigned char* shared = nullptr;
  const std::function<void()>* body = nullptr;
  const char* name = "";
};

// The stacks of a host thread, kept for its next block.
struct Stacks {
  std::vector<unsigned char*> free;
  unsigned char* take() {
    if (!free.empty()) {
      unsigned char* stack = free.back();
      free.pop_back();
      return stack;
    }
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      std::fprintf(stderr, "cuda_emulator: no memory for stacks\n");
      std::abort();
    }
    return static_cast<unsigned char*>(memory);
  }
  ~Stacks() {
    for (unsigned char* stack : free) munmap(stack, kStackBytes);
  }
};

thread_local Stacks stacks;
thread_local Block* current_block = nullptr;
thread_local Thread* current_thread = nullptr;
thread_local void* scheduler_stack_pointer = nullptr;
#ifdef EMULATOR_ASAN
thread_local const void* scheduler_stack = nullptr;
thread_local size_t scheduler_stack_bytes = 0;
thread_local void* scheduler_fake_stack = nullptr;
#endif

// PARE_EMULATED_ORDER=forward, reverse, or a number: shuffled with it as seed.
Order order_of_environment() {
  const char* text = std::getenv("PARE_EMULATED_ORDER");
  if (text == nullptr || std::strcmp(text, "forward") == 0) return Order::forward;
  return std::strcmp(text, "reverse") == 0 ? Order::reverse : Order::shuffled;
}
uint64_t seed_of_environment() {
  const char* text = std::getenv("PARE_EMULATED_ORDER");
  return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}
Order chosen_order = order_of_environment();
uint64_t chosen_seed = seed_of_environment();

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "cuda_emulator: %s in %s, block (%u, %u, %u)\n", what, current_block->name, blockIdx.x,
               blockIdx.y, blockIdx.z);
  std::abort();
}

void to_scheduler(bool ends) {
  Thread& self = *current_thread;
#ifdef EMULATOR_ASAN
  __sanitizer_start_switch_fiber(ends ? nullptr : &self.fake_stack, scheduler_stack, scheduler_stack_bytes);
#else
  (void)ends;
#endif
  emulator_switch(&self.stack_pointer, scheduler_stack_pointer);
#ifdef EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(self.fake_stack, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void release_barrier(int id) {
  Block& block = *current_block;
  int waiting = 0, wanted = 0;
  for (const Thread& thread : block.threads) {
    if (thread.state != State::waiting_block || thread.barrier != id) continue;
    ++waiting;
    wanted = thread.barrier_count;
  }
  if (waiting == 0 || waiting < (wanted > 0 ? wanted : block.alive)) return;
  for (Thread& thread : block.threads) {
    if (thread.state == State::waiting_block && thread.barrier == id) thread.state = State::ready;
  }
}

void fiber_main() {
#ifdef EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  (*current_block->body)();
  current_thread->state = State::done;
  --current_block->alive;
  release_barrier(0);
  to_scheduler(true);
  std::abort();  // nobody resumes a thread that has ended
}

// A stack on which the first switch "returns" into fiber_main.
void prepare(Thread& thread) {
  thread.stack = stacks.take();
  auto* top = reinterpret_cast<void**>(thread.stack + kStackBytes);
  *--top = nullptr;  // keeps the stack aligned as a call would
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  thread.stack_pointer = top;
  thread.state = State::ready;
}

void resume(Thread& thread) {
  if (thread.state == State::fresh) prepare(thread);
  current_thread = &thread;
  threadIdx = thread.index;
  thread.polls = false;
#ifdef EMULATOR_ASAN
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, thread.stack, kStackBytes);
#endif
  emulator_switch(&scheduler_stack_pointer, thread.stack_pointer);
#ifdef EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
  if (thread.state == State::done) {
    stacks.free.push_back(thread.stack);
    thread.stack = nullptr;
  }
}

[[noreturn]] void report_deadlock(const Block& block) {
  std::fprintf(stderr, "cuda_emulator: deadlock in %s, block (%u, %u, %u):\n", block.name, blockIdx.x,
               blockIdx.y, blockIdx.z);
  int told = 0;
  for (const Thread& thread : block.threads) {
    if (told == 40) break;
    const char* what = thread.state == State::done            ? "has ended"
                       : thread.state == State::waiting_block ? "at a barrier of the block"
                                                              : thread.waits_for;
    if (thread.number % 32 == 0 || thread.state != State::done) {
      std::fprintf(stderr, "  thread %d: %s\n", thread.number, what != nullptr ? what : "?");
      ++told;
    }
  }
  std::abort();
}

std::vector<unsigned> order_of(size_t count, uint64_t salt) {
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), 0u);
  if (chosen_order == Order::reverse) std::reverse(order.begin(), order.end());
  if (chosen_order == Order::shuffled) {
    std::mt19937_64 random(chosen_seed * 0x9e3779b97f4a7c15u + salt);
    std::shuffle(order.begin(), order.end(), random);
  }
  return order;
}

void run_block(Block& block, uint64_t salt) {
  const std::vector<unsigned> order = order_of(block.threads.size(), salt);
  int64_t rounds_of_polls = 0;
  while (block.alive > 0) {
    bool progressed = false, polled = false;
    for (const unsigned i : order) {
      Thread& thread = block.threads[i];
      if (thread.state != State::fresh && thread.state != State::ready) continue;
      resume(thread);
      (thread.polls ? polled : progressed) = true;
    }
    if (progressed) {
      rounds_of_polls = 0;
      continue;
    }
    constexpr int64_t kPatience = 100'000;
    if (!polled || ++rounds_of_polls > kPatience) report_deadlock(block);
  }
}

}  // namespace

void set_order(Order order, uint64_t seed) {
  chosen_order = order;
  chosen_seed = seed;
}

void run_grid(const char* name, Dim3 grid, Dim3 block_shape, size_t shared_bytes,
              const std::function<void()>& body) {
  const unsigned threads = block_shape.x * block_shape.y * block_shape.z;
  if (threads == 0 || threads > 1024 || grid.x == 0 || grid.y > 65'535 || grid.z > 65'535 || grid.y == 0 ||
      grid.z == 0) {
    std::fprintf(stderr, "cuda_emulator: %s with a grid of %u x %u x %u blocks of %u threads\n", name, grid.x,
                 grid.y, grid.z, threads);
    std::abort();
  }
  Block block;
  block.body = &body;
  block.name = name;
  block.threads.resize(threads);
  block.warps.resize((threads + 31) / 32);
  gridDim = {grid.x, grid.y, grid.z};
  blockDim = {block_shape.x, block_shape.y, block_shape.z};
  Block* const outer = current_block;
  current_block = &block;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  const bool shuffles = blocks <= 1u << 20 && chosen_order != Order::forward;
  const std::vector<unsigned> order = shuffles ? order_of(size_t(blocks), 17) : std::vector<unsigned>();
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t number = shuffles ? order[size_t(i)] : i;
    blockIdx = {unsigned(number % grid.x), unsigned(number / grid.x % grid.y),
                unsigned(number / grid.x / grid.y)};
    // the exact size, so that ASan sees what is written behind it
    block.shared_owner.reset(static_cast<unsigned char*>(
        ::operator new[](std::max<size_t>(shared_bytes, 1), std::align_val_t{128})));
    block.shared = block.shared_owner.get();
    std::memset(block.shared, 0xff, shared_bytes);
    block.alive = int(threads);
    for (unsigned t = 0; t < threads; ++t) {
      Thread& thread = block.threads[t];
      thread.state = State::fresh;
      thread.number = int(t);
      thread.index = {t % block_shape.x, t / block_shape.x % block_shape.y,
                      t / block_shape.x / block_shape.y};
      thread.open_group.clear();
      thread.groups.clear();
    }
    for (Warp& warp : block.warps) warp.arrived = 0;
    run_block(block, number + 1);
  }
  current_block = outer;
}

unsigned char* shared_bytes() {
  return current_block->shared;
}

int lane() {
  return current_thread->number % 32;
}

int warp_in_block() {
  return current_thread->number / 32;
}

void meet_warp(unsigned mask, void* slot, Work work, const char* what) {
  Thread& self = *current_thread;
  Block& block = *current_block;
  const size_t first = size_t(self.number) / 32 * 32;
  Warp& warp = block.warps[first / 32];
  const int own = self.number % 32;
  if ((mask >> own & 1) == 0) fail("a lane that is not in its own mask");
  // lanes that the block does not have count as absent, as on hardware with a block that is no multiple of a
  // warp
  if (first + 32 > block.threads.size()) mask &= (1u << (block.threads.size() - first)) - 1;
  warp.slots[own] = slot;
  warp.masks[own] = mask;
  warp.works[own] = work;
  warp.arrived |= 1u << own;
  bool complete = (warp.arrived & mask) == mask;
  for (int l = 0; complete && l < 32; ++l) {
    if (mask >> l & 1) complete = warp.masks[l] == mask && warp.works[l] == work;
  }
  if (!complete) {
    self.state = State::waiting_warp;
    self.waits_for = what;
    to_scheduler(false);
    return;
  }
  warp.arrived &= ~mask;
  if (work != nullptr) work(warp.slots, mask);
  for (int l = 0; l < 32; ++l) {
    if ((mask >> l & 1) && l != own) block.threads[first + size_t(l)].state = State::ready;
  }
}

void meet_block(int id, int count) {
  Thread& self = *current_thread;
  self.state = State::waiting_block;
  self.barrier = id;
  self.barrier_count = count;
  release_barrier(id);
  if (self.state == State::waiting_block) to_scheduler(false);
}

int block_sum(int value) {
  Block& block = *current_block;
  meet_block(0, 0);
  block.sum = 0;
  meet_block(0, 0);
  block.sum += value;
  meet_block(0, 0);
  return block.sum;
}

void poll() {
  current_thread->polls = true;
  to_scheduler(false);
}

void queue_copy(void* to, const void* from, int bytes, int width) {
  if (reinterpret_cast<uintptr_t>(to) % size_t(width) != 0 ||
      (bytes > 0 && reinterpret_cast<uintptr_t>(from) % size_t(width) != 0))
    fail("cp.async of an address that is not aligned");
  if (bytes < 0 || bytes > width) fail("cp.async of more bytes than its width");
  current_thread->open_group.push_back({to, from, bytes, width});
}

void commit_copies() {
  current_thread->groups.push_back(std::move(current_thread->open_group));
  current_thread->open_group.clear();
}

void wait_for_copies(int pending_groups) {
  auto& groups = current_thread->groups;
  while (int(groups.size()) > pending_groups) {
    for (const Copy& copy : groups.front()) {
      if (copy.bytes > 0) std::memcpy(copy.to, copy.from, size_t(copy.bytes));
      std::memset(static_cast<unsigned char*>(copy.to) + copy.bytes, 0, size_t(copy.width - copy.bytes));
    }
    groups.pop_front();
  }
}

}  // namespace emulator
