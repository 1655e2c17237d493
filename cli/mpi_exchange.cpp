#include "cli/mpi_exchange.h"

// Only the C interface: the old C++ one does not compile without warnings.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <array>
#include <vector>

#include "engine/core/assert.h"

namespace pare::cli {
namespace {

constexpr size_t kPieceBytes = size_t(2) << 20;

MPI_Datatype type_of(float) {
  return MPI_FLOAT;
}
MPI_Datatype type_of(double) {
  return MPI_DOUBLE;
}

Status checked(int code, const char* what) {
  if (code == MPI_SUCCESS) return {};
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  return Error{.exit = Exit::io,
               .rule = {},
               .path = "mpirun",
               .where = what,
               .what = "processes cannot reach each other: " + std::string(text.data(), size_t(length)),
               .got = {},
               .limit = {}};
}

class MpiExchange final : public GradientExchange {
 public:
  MpiExchange() {
    MPI_Comm_dup(MPI_COMM_WORLD, &group_);
    // Whoever calls hears of a lost process; the world itself keeps ending the program.
    MPI_Comm_set_errhandler(group_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(group_, &rank_);
    MPI_Comm_size(group_, &size_);
  }
  // The communicator is freed by MPI_Finalize: after a failure nothing collective may be called.

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Status sum(std::span<float> values) override { return sum_values(values); }
  Status sum(std::span<double> values) override { return sum_values(values); }

  Status broadcast(std::span<float> values, int root) override {
    PARE_ASSERT(root >= 0 && root < size_, "[broadcast] root {} of {} ranks", root, size_);
    for (size_t at = 0; at < values.size(); at += kPieceBytes / sizeof(float)) {
      const size_t count = std::min(kPieceBytes / sizeof(float), values.size() - at);
      PARE_CHECK(checked(MPI_Bcast(values.data() + at, int(count), MPI_FLOAT, root, group_), "broadcast"));
    }
    return {};
  }

 private:
  template <typename T>
  Status sum_values(std::span<T> values) {
    if (size_ == 1) return {};
    const size_t piece = kPieceBytes / sizeof(T);
    for (size_t at = 0; at < values.size(); at += piece)
      PARE_CHECK(sum_piece(values.subspan(at, std::min(piece, values.size() - at))));
    return {};
  }

  // Rank r adds up values [shares[r], shares[r + 1]) of all ranks.
  template <typename T>
  Status sum_piece(std::span<T> values) {
    const auto ranks = size_t(size_);
    std::vector<int> counts(ranks), offsets(ranks), own_counts(ranks), own_offsets(ranks);
    for (size_t r = 0; r < ranks; ++r) {
      offsets[r] = int(values.size() * r / ranks);
      counts[r] = int(values.size() * (r + 1) / ranks) - offsets[r];
    }
    const int own = counts[size_t(rank_)];
    for (size_t r = 0; r < ranks; ++r) {
      own_counts[r] = own;
      own_offsets[r] = int(r) * own;
    }
    received_.resize(size_t(own) * ranks * sizeof(T));
    T* received = reinterpret_cast<T*>(received_.data());
    PARE_CHECK(checked(MPI_Alltoallv(values.data(), counts.data(), offsets.data(), type_of(T()), received,
                                     own_counts.data(), own_offsets.data(), type_of(T()), group_),
                       "sum"));
    // In place, in the first rank's share: ((rank 0 + rank 1) + rank 2) + ...
    for (size_t r = 1; r < ranks; ++r)
      for (size_t i = 0; i < size_t(own); ++i) received[i] += received[r * size_t(own) + i];
    std::copy(received, received + own, values.data() + offsets[size_t(rank_)]);
    return checked(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values.data(), counts.data(),
                                  offsets.data(), type_of(T()), group_),
                   "sum");
  }

  MPI_Comm group_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  std::vector<std::byte> received_;  // aligned by operator new for every type of number
};

}  // namespace

std::unique_ptr<GradientExchange> mpi_exchange() {
  return std::make_unique<MpiExchange>();
}

}  // namespace pare::cli
