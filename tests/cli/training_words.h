// tests/cli/training_words.h: small runs of `pare distill` and `pare finetune` on the sample model.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "tests/cli/words.h"

namespace pare::test {

// Everything but the models and -o; a few steps of 4 windows of 32 tokens.
inline Words small_run(int steps = 3, const std::string& lr = "1e-3") {
  Words words = {"--data",  sample_text(),         "--context",       "32", "--batch",   "4",
                 "--steps", std::to_string(steps), "--report-tokens", "64", "--no-speed"};
  return lr.empty() ? words : words + Words{"--lr", lr};
}

inline std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The sample with a quarter of its MLP channels cut off; once per test program.
inline const std::string& cut_student() {
  static const std::string path = [] {
    const std::string out = temporary_folder() + "/cut";
    const CommandResult result = pare({"prune", sample_model(), "--structure", "mlp", "--sparsity", "0.25",
                                       "--importance", "weight", "--no-speed", "-o", out});
    EXPECT_EQ(result.exit_code, 0) << result.error;
    return out;
  }();
  return path;
}

inline Words distill_words(const std::string& student, const std::string& out) {
  return {"distill", "--teacher", sample_model(), "--student", student, "-o", out};
}

}  // namespace pare::test
