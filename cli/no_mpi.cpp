// The group of a build without MPI.
#include <cstdlib>

#include "cli/process_group.h"
#include "distill/gradient_exchange.h"

namespace pare::cli {
namespace {

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
  const char* size = std::getenv("OMPI_COMM_WORLD_SIZE");
  if (size != nullptr && std::string_view(size) != "1") {
    return Error{.exit = Exit::unsupported,
                 .rule = "CL11",
                 .path = "mpirun",
                 .where = {},
                 .what =
                     "this build has no MPI; calibrate parts with --part and put them together with --merge, "
                     "train in one process",
                 .got = size,
                 .limit = "1"};
  }
  return std::unique_ptr<ProcessGroup>(std::make_unique<Alone>());
}

void end_group(int) {}

}  // namespace pare::cli
