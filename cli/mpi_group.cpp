// The group that mpirun started.
// Only the C interface: the old C++ one does not compile without warnings.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <cstdlib>

#include "calibrate/merge.h"
#include "calibrate/statistics_tensors.h"
#include "cli/mpi_exchange.h"
#include "cli/process_group.h"

namespace pare::cli {
namespace {

constexpr int kStatisticsTag = 1;

// MPI counts are int; large matrices go in pieces.
constexpr size_t kPieceBytes = size_t(1) << 30;

// Joined and not finished: one for the process, as MPI is.
bool is_joined = false;

class MpiGroup final : public ProcessGroup {
 public:
  MpiGroup() {
    int initialized = 0;
    MPI_Initialized(&initialized);
    if (initialized == 0) MPI_Init(nullptr, nullptr);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    is_joined = true;
    exchange_ = mpi_exchange();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  double largest(double value) override {
    double result = value;
    MPI_Allreduce(&value, &result, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return result;
  }

  Status merge_to_first(const SiteEntry& entry, StatisticSet collected, SiteStatistics& statistics) override {
    if (rank_ > 0) {
      PARE_TRY(const std::vector<Tensor> tensors, site_tensors(statistics, collected));
      for (const Tensor& tensor : tensors) send(tensor);
      return {};
    }
    for (int other = 1; other < size_; ++other) {
      std::vector<Tensor> tensors;
      for (const StatisticsTensorSpec& spec : site_specs(entry, collected)) {
        PARE_TRY(Tensor tensor, Tensor::allocate(spec.dtype, spec.shape));
        receive(tensor, other);
        tensors.push_back(std::move(tensor));
      }
      PARE_TRY(const SiteStatistics part,
               parse_site(entry, collected, tensors, "rank " + std::to_string(other)));
      PARE_CHECK(merge_site(statistics, part));
    }
    return {};
  }

  GradientExchange& exchange() override { return *exchange_; }

  void finish() override {
    MPI_Barrier(MPI_COMM_WORLD);
    is_joined = false;
    MPI_Finalize();
  }

 private:
  static void send(const Tensor& tensor) {
    for (size_t at = 0; at < tensor.size_bytes(); at += kPieceBytes) {
      const size_t count = std::min(kPieceBytes, tensor.size_bytes() - at);
      MPI_Send(tensor.raw() + at, int(count), MPI_BYTE, 0, kStatisticsTag, MPI_COMM_WORLD);
    }
  }
  static void receive(Tensor& tensor, int from) {
    for (size_t at = 0; at < tensor.size_bytes(); at += kPieceBytes) {
      const size_t count = std::min(kPieceBytes, tensor.size_bytes() - at);
      MPI_Recv(tensor.mutable_raw() + at, int(count), MPI_BYTE, from, kStatisticsTag, MPI_COMM_WORLD,
               MPI_STATUS_IGNORE);
    }
  }

  int rank_ = 0, size_ = 1;
  std::unique_ptr<GradientExchange> exchange_;
};

// Started by hand: no MPI needed, and none is started.
class Alone final : public ProcessGroup {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  double largest(double value) override { return value; }
  GradientExchange& exchange() override { return *exchange_; }
  Status merge_to_first(const SiteEntry&, StatisticSet, SiteStatistics&) override { return {}; }
  void finish() override {}

 private:
  std::unique_ptr<GradientExchange> exchange_ = single_process();
};

}  // namespace

Result<std::unique_ptr<ProcessGroup>> ProcessGroup::join() {
  // What Open MPI, and launchers that speak PMI, set for each process.
  const bool is_launched =
      std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMI_SIZE") != nullptr;
  if (!is_launched) return std::unique_ptr<ProcessGroup>(std::make_unique<Alone>());
  return std::unique_ptr<ProcessGroup>(std::make_unique<MpiGroup>());
}

void end_group(int exit) {
  if (is_joined) MPI_Abort(MPI_COMM_WORLD, exit);
}

}  // namespace pare::cli
