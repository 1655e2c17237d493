// Several processes, started by mpirun.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/command.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

// As many processes as asked for on any machine, also in a container and as root.
CommandResult mpirun(int ranks, std::vector<std::string> words) {
  CommandOptions options;
  options.environment = {{"OMPI_ALLOW_RUN_AS_ROOT", "1"},
                         {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
                         {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
                         {"OMPI_MCA_plm", "isolated"},
                         {"OMPI_MCA_btl", "self,vader"},
                         {"OMPI_MCA_mpi_yield_when_idle", "1"}};
  words.insert(words.begin(), {"-n", std::to_string(ranks)});
  return run_command(PARE_MPIRUN, words, options);
}

class MpiTest : public testing::Test {
 protected:
  void SetUp() override {
    if (std::string(PARE_MPIRUN).empty()) GTEST_SKIP() << "without mpirun";
    if (mpirun(1, {"/bin/true"}).exit_code != 0) GTEST_SKIP() << "mpirun does not start anything here";
  }
};

TEST_F(MpiTest, SumsAreThoseOfTheRanksInTheirOrder) {
  for (const int ranks : {2, 3}) {
    const CommandResult result = mpirun(ranks, {PARE_EXCHANGE_PROGRAM});
    EXPECT_EQ(result.exit_code, 0) << result.error;
    EXPECT_THAT(result.out, HasSubstr(std::to_string(ranks) + " ranks agree"));
  }
}

TEST_F(MpiTest, OneFailingRankEndsAllWithItsExitCode) {
  const CommandResult result = mpirun(3, {PARE_EXCHANGE_PROGRAM, "alone-fails"});
  EXPECT_EQ(result.exit_code, 7) << result.error;
  EXPECT_EQ(result.error_lines(), 1) << result.error;
}

}  // namespace
}  // namespace pare::test
