// Several processes, started by mpirun.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "cli/model_argument.h"
#include "engine/core/json.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

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

std::shared_ptr<const WeightSource> open_source_of(const std::string& path) {
  auto source = cli::open_source(path, {});
  EXPECT_TRUE(source) << path;
  return source ? *source : nullptr;
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

// Two ranks with accumulation A read the micro-batches of one rank with accumulation 2 A; gradients differ by
// the order of one addition each, which the optimizer makes a change of at most the learning rate per step.
class MpiTraining : public MpiTest {
 protected:
  CommandResult train(int ranks, const std::string& out, const std::vector<std::string>& more = {}) {
    std::vector<std::string> words = {binary_folder() + "/pare",
                                      "finetune",
                                      source_path("samples/books-3m"),
                                      "--data",
                                      source_path("samples/text/sample.txt"),
                                      "--context",
                                      "64",
                                      "--batch",
                                      "8",
                                      "--micro-batch",
                                      "2",
                                      "--steps",
                                      "3",
                                      "--lr",
                                      "1e-4",
                                      "--warmup",
                                      "0",
                                      "--dtype",
                                      "f32",
                                      "--threads",
                                      "1",
                                      "--no-report",
                                      "-o",
                                      folder_ + "/" + out};
    words.insert(words.end(), more.begin(), more.end());
    const CommandResult result = mpirun(ranks, words);
    EXPECT_EQ(result.exit_code, 0) << result.error;
    return result;
  }
  std::string bytes_of(const std::string& name) {
    std::ifstream in(folder_ + "/" + name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // Values of the losses in the log of a run.
  std::vector<double> losses_of(const std::string& out) {
    std::vector<double> losses;
    std::istringstream in(bytes_of(out + ".log.jsonl"));
    for (std::string line; std::getline(in, line);) {
      const auto json = parse_json(line, out, {.max_bytes = 1u << 20});
      if (json && json->find("event")->as_string() == "step")
        losses.push_back(json->find("loss")->as_double());
    }
    return losses;
  }
  std::string folder_ = temporary_folder();
};

TEST_F(MpiTraining, TwoRanksAreOneWithTwiceTheMicroBatches) {
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{}, std::vector<std::string>{"--shard-optimizer"}}) {
    const std::string name = more.empty() ? "plain" : "sharded";
    train(2, name + "2.pare", more);
    train(2, name + "2again.pare", more);
    train(1, name + "1.pare", more);
    EXPECT_FALSE(bytes_of(name + "2.pare").empty());
    EXPECT_TRUE(bytes_of(name + "2.pare") == bytes_of(name + "2again.pare"))
        << "two ranks, twice: other bytes";
    const std::vector<double> two = losses_of(name + "2.pare"), one = losses_of(name + "1.pare");
    ASSERT_EQ(two.size(), 3u) << "one log, of the first rank";
    ASSERT_EQ(one.size(), 3u);
    // The bound of docs/training.md: losses agree to 1e-5 relative.
    for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(two[i], one[i], 1e-5 * one[i]) << "step " << i;
  }
  // Sharding says who keeps a moment, not what it is.
  EXPECT_EQ(losses_of("plain2.pare"), losses_of("sharded2.pare"));
}

TEST_F(MpiTraining, WeightsAgreeWithinTheBound) {
  train(2, "two.pare");
  train(1, "one.pare");
  const auto two = open_source_of(folder_ + "/two.pare"), one = open_source_of(folder_ + "/one.pare");
  ASSERT_TRUE(two && one);
  double largest = 0.0;
  int64_t differ = 0, count = 0;
  for (const StoredTensor& stored : one->tensors()) {
    const auto a = one->load(stored.name), b = two->load(stored.name);
    ASSERT_TRUE(a && b);
    const Tensor x = *a->to_dense_tensor(), y = *b->to_dense_tensor();
    for (int64_t i = 0; i < x.numel(); ++i) {
      const double difference = std::abs(double(x.data<float>()[i]) - double(y.data<float>()[i]));
      largest = std::max(largest, difference);
      differ += difference > 1e-6 ? 1 : 0;
      ++count;
    }
  }
  // A gradient around zero may change its sign with the order of a sum, and Adam makes a whole step of any
  // sign: no weight is further off than both runs can go, and hardly any is off at all.
  EXPECT_LE(largest, 2.0 * 3 * 1e-4 * 1.01);
  EXPECT_LE(double(differ), 1e-3 * double(count)) << differ << " of " << count;
}

}  // namespace
}  // namespace pare::test
