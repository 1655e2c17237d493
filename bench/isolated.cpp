#include "bench/isolated.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace pare::bench {
namespace {

constexpr int kGood = 0, kBad = 1;

// Tells the parent which case begins; `count` when all are done.
bool tell(int pipe_end, int64_t number) {
  return ::write(pipe_end, &number, sizeof number) == ssize_t(sizeof number);
}

[[noreturn]] void be_child(const IsolatedRun& cases, int64_t first, int pipe_end) {
  bool good = true;
  for (int64_t i = first; i < cases.count; ++i) {
    if (!tell(pipe_end, i)) std::exit(kBad);
    ::alarm(cases.case_seconds);
    good = cases.run(i) && good;
    ::alarm(0);
  }
  if (cases.finished) cases.finished();
  (void)tell(pipe_end, cases.count);
  std::exit(good ? kGood : kBad);
}

// The last number that came through the pipe before its other end closed; -1: none did.
int64_t last_told(int pipe_end) {
  int64_t last = -1, number = 0;
  for (;;) {
    const ssize_t got = ::read(pipe_end, &number, sizeof number);
    if (got < 0 && errno == EINTR) continue;
    if (got != ssize_t(sizeof number)) return last;
    last = number;
  }
}

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) return "no result within its time";
  if (WIFSIGNALED(status)) return fmt::format("ended by signal {}", WTERMSIG(status));
  return fmt::format("ended with exit code {}", WEXITSTATUS(status));
}

}  // namespace

int run_isolated(const IsolatedRun& cases) {
  bool good = true;
  for (int64_t first = 0; first < cases.count;) {
    int ends[2];
    if (::pipe(ends) != 0) return kBad;
    const pid_t child = ::fork();
    if (child < 0) return kBad;
    if (child == 0) {
      ::close(ends[0]);
      be_child(cases, first, ends[1]);
    }
    ::close(ends[1]);
    const int64_t last = last_told(ends[0]);
    ::close(ends[0]);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    good = good && WIFEXITED(status) && WEXITSTATUS(status) == kGood;
    if (last == cases.count) break;
    // One that could not begin is taken for the one that it would have begun with.
    const int64_t lost = last < 0 ? first : last;
    cases.lost(lost, how_it_ended(status));
    good = false;
    first = lost + 1;
  }
  return good ? kGood : kBad;
}

}  // namespace pare::bench
