// What every rank of mpi_test runs: sums and broadcasts whose results each rank can work out by itself, since
// it knows what the others bring. "alone-fails": one rank ends in the middle, the others wait for it.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cli/process_group.h"
#include "distill/gradient_exchange.h"

namespace {

using pare::GradientExchange;
using pare::Status;

// Of rank r, element i: any values whose sum depends on its order in the last bits.
template <typename T>
T value_of(int rank, size_t i) {
  const uint64_t mixed = (i * 2654435761u + uint64_t(rank) * 40503u + 12345u) * 6364136223846793005u;
  return T(double(mixed >> 40) / 4099.0 - 2000.0) * T(rank % 2 == 0 ? 1.0 : 1e-3);
}

template <typename T>
bool sums_are_exact(GradientExchange& exchange, size_t size) {
  std::vector<T> values(size), expected(size);
  for (size_t i = 0; i < size; ++i) {
    values[i] = value_of<T>(exchange.rank(), i);
    expected[i] = value_of<T>(0, i);
    for (int r = 1; r < exchange.size(); ++r) expected[i] += value_of<T>(r, i);
  }
  const Status summed = exchange.sum(std::span<T>(values));
  return summed && std::memcmp(values.data(), expected.data(), size * sizeof(T)) == 0;
}

bool broadcast_is_exact(GradientExchange& exchange, size_t size, int root) {
  std::vector<float> values(size), expected(size);
  for (size_t i = 0; i < size; ++i) {
    values[i] = value_of<float>(exchange.rank(), i);
    expected[i] = value_of<float>(root, i);
  }
  return exchange.broadcast(values, root) && values == expected;
}

int run(const std::string& what) {
  auto joined = pare::cli::ProcessGroup::join();
  if (!joined) return 100;
  pare::cli::ProcessGroup& group = **joined;
  GradientExchange& exchange = group.exchange();
  if (exchange.rank() != group.rank() || exchange.size() != group.size()) return 101;
  if (what == "alone-fails") {
    if (group.rank() == group.size() - 1) {
      std::fprintf(stderr, "pare: error: this rank fails\n");
      return 7;
    }
    std::vector<float> values(1000);
    while (exchange.sum(values)) {
    }
    return 102;
  }
  // Around the number of ranks, around a piece of 2 MiB, and several pieces.
  for (const size_t size : {0ul, 1ul, 2ul, 3ul, 5ul, 1000ul, 524287ul, 524288ul, 524289ul, 1500001ul}) {
    if (!sums_are_exact<float>(exchange, size)) return 103;
    if (!sums_are_exact<double>(exchange, size / 2 + 1)) return 104;
    for (int root = 0; root < exchange.size(); ++root)
      if (!broadcast_is_exact(exchange, size, root)) return 105;
  }
  if (group.any(false) || !group.any(group.rank() == group.size() - 1)) return 106;
  if (group.is_first()) std::printf("%d ranks agree\n", group.size());
  std::fflush(stdout);
  group.finish();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const int exit = run(argc > 1 ? argv[1] : "");
  pare::cli::end_group(exit);
  return exit;
}
