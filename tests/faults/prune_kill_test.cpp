// F1, F11, F13 on `pare prune`: killed or stopped anywhere, and resumed until it is done, the program writes
// the bytes that it writes undisturbed. PARE_SLOW_TESTS=1 kills it more than fifty times.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/faults/job_process.h"

namespace pare::test {
namespace {

using Words = std::vector<std::string>;
const Words kSparseGpt = {"--method", "sparsegpt", "--allocation", "owl"};
const Words kTaylor = {"--method", "taylor", "--allocation", "global"};

// A job on the sample model that decides sparsities before its first block.
JobWords fresh_words(const Words& method = kSparseGpt) {
  const JobWords words{.command = {"prune", source_path("samples/books-3m"), "--sparsity", "0.5", "--data",
                                   source_path("samples/text/sample.txt"), "--samples", "6", "--context",
                                   "64", "--report-tokens", "64", "--no-speed"},
                       .output = temporary_folder() + "/out.pare"};
  return words.with(method);
}

std::string undisturbed_bytes(const Words& method) {
  const JobWords words = fresh_words(method);
  const CommandResult result = pare(words.list());
  EXPECT_EQ(result.exit_code, 0) << result.error;
  EXPECT_FALSE(fs::exists(words.job()));
  return read_bytes(words.output);
}

const std::string& expected_bytes() {
  static const std::string bytes = undisturbed_bytes(kSparseGpt);
  return bytes;
}

// The first commit is that of the sparsities, the sixth that of the output.
void kill_at_random_moments(const Words& method, const std::string& expected, uint64_t seed, int wanted) {
  test::kill_at_random_moments<JobWords>([&] { return fresh_words(method); },
                                         [](const JobWords& words) { return words.stages(6); }, expected,
                                         seed, wanted, 3, [](const JobWords&) {});
}

bool is_slow() {
  return std::getenv("PARE_SLOW_TESTS") != nullptr;
}

TEST(PruneKill, AtRandomMoments) {
  kill_at_random_moments(kSparseGpt, expected_bytes(), 41, is_slow() ? 55 : 6);
}

// The first commit is that of the gradients.
TEST(PruneKill, AtRandomMomentsOfGradients) {
  kill_at_random_moments(kTaylor, undisturbed_bytes(kTaylor), 43, is_slow() ? 55 : 4);
}

TEST(PruneKill, AStopSignalIsExit75AndThePrintedCommandContinues) {
  stop_and_run_what_is_printed(fresh_words(), expected_bytes());
}

TEST(PruneKill, OtherOptionsAreRefusedByName) {
  expect_identity(fresh_words(), {{{"--damping", "0.02"}, "options.damping"},
                                  {{"--order", "act"}, "options.order"},
                                  {{"--scope", "row"}, "options.scope"},
                                  {{"--block-size", "64"}, "options.block"},
                                  {{"--calibrate", "block"}, "options.calibrate"},
                                  {{"--owl-lambda", "0.1"}, "options.owl_lambda"},
                                  {{"--scheme", "int8-ch"}, "options.scheme"},
                                  {{"--form", "dense"}, "options.form"},
                                  {{"--exclude", "layers.0.*"}, "options.exclude"},
                                  {{"--set", "layers.1.*=0.3"}, "options.set"},
                                  {{"--seed", "7"}, "seed"},
                                  {{"--cpu-profile", "generic"}, "arithmetic"}});
}

}  // namespace
}  // namespace pare::test
