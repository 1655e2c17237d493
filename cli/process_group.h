// cli/process_group.h: processes that calibrate parts of the same data, or train one model, together; started
// by mpirun.
//
// A build without MPI, or a program started alone, is a group of one. Parts are merged in the order of ranks,
// by the code that merges files of parts (calibrate/merge.h); gradients are summed in that order too.
//
// Of a training run:
//   PARE_TRY(const auto group, ProcessGroup::join());
//   ... Trainer::make(..., group->exchange())
//   each step: const bool stops = group->any(interrupted());     // everybody stops at the same step
//   at the end, also with an error that every rank has, and exit 75: group->finish();
// A rank that fails on its own returns its error without finish(): the program prints it and ends the group
// with its exit code.
#pragma once

#include <memory>

#include "calibrate/statistics.h"

namespace pare {
class GradientExchange;
}

namespace pare::cli {

class ProcessGroup {
 public:
  // The group this process was started in. Exit 4 when several were started by mpirun and this build has no
  // MPI.
  static Result<std::unique_ptr<ProcessGroup>> join();
  virtual ~ProcessGroup() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  bool is_first() const { return rank() == 0; }
  // The largest of all ranks' values. Every rank must call it.
  virtual double largest(double value) = 0;
  // Whether any rank says so. Every rank must call it.
  bool any(bool value) { return largest(value ? 1.0 : 0.0) > 0.0; }
  // For the gradients of all; lives as long as the group.
  virtual GradientExchange& exchange() = 0;
  // Rank 0 gets the merged statistics of a site; the others keep theirs. Every rank must call it. Exit 3,
  // 6, 7.
  virtual Status merge_to_first(const SiteEntry& entry, StatisticSet collected,
                                SiteStatistics& statistics) = 0;
  // Waits for all; without it end_group() ends the others, for this rank failed.
  virtual void finish() = 0;
};

// Called last by the program, after its error line: when this process is in a group that it did not finish()
// with, ends all processes of the group with `exit`, and does not return.
void end_group(int exit);

}  // namespace pare::cli
