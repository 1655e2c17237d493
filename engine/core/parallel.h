// engine/core/parallel.h: work on several threads with results that do not depend on their number.
//
// Work is cut into items by shape alone; which thread runs an item is free, so an item must write only its
// own outputs, and partial sums are combined by the caller in item order.
#pragma once

#include <cstdint>
#include <functional>

namespace pare {

// Threads used by parallel_for, the caller included. 0 means one per CPU this process may use. If a thread
// cannot be started, fewer are used (thread_count() tells); one always is.
void set_thread_count(int threads);
int thread_count();

// Calls body(i) for each i in [0, count), from several threads, and returns when all are done. The first
// exception (lowest item) is rethrown here. Calls from inside a body run serially.
void parallel_for(int64_t count, const std::function<void(int64_t item)>& body);

// The same over [0, size) in pieces of `grain` (the last may be shorter): body(begin, end).
void parallel_ranges(int64_t size, int64_t grain,
                     const std::function<void(int64_t begin, int64_t end)>& body);

// Index of the calling thread in the pool, [0, thread_count()); for scratch memory, never for results.
int thread_index();

}  // namespace pare
