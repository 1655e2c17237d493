// cli/process_group.h: processes that calibrate parts of the same data together, started by mpirun.
//
// A build without MPI, or a program started alone, is a group of one. Parts are merged in the order of ranks,
// by the code that merges files of parts (calibrate/merge.h).
#pragma once

#include <memory>

#include "calibrate/statistics.h"

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
  // Rank 0 gets the merged statistics of a site; the others keep theirs. Every rank must call it. Exit 3,
  // 6, 7.
  virtual Status merge_to_first(const SiteEntry& entry, StatisticSet collected,
                                SiteStatistics& statistics) = 0;
  // Waits for all; without it the destructor ends the whole group, for a rank failed.
  virtual void finish() = 0;
};

}  // namespace pare::cli
