// tests/faults/quantize_process.h: `pare quantize` as a process that a test stops where it wants.
#pragma once

#include <string>
#include <vector>

#include "tests/faults/job_process.h"

namespace pare::test {

// A GPTQ job on the sample model that takes about a second.
struct QuantizeWords {
  std::string model = source_path("samples/books-3m"), data = source_path("samples/text/sample.txt");
  std::string output;
  std::vector<std::string> more{};

  std::vector<std::string> list() const {
    std::vector<std::string> words = {"quantize",        model, "--method",  "gptq", "--scheme",  "int4-g64",
                                      "--data",          data,  "--samples", "6",    "--context", "64",
                                      "--report-tokens", "64",  "-o",        output};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  QuantizeWords with(const std::vector<std::string>& words) const {
    QuantizeWords result = *this;
    result.more.insert(result.more.end(), words.begin(), words.end());
    return result;
  }
  std::string job() const { return output + ".pare-job"; }
  // What a person does after a kill.
  std::vector<std::string> next() const {
    return fs::exists(job() + "/job.json") ? with({"--resume"}).list() : list();
  }
};

// Runs until the n-th commit (0: the beginning of the job), then kills.
inline int run_and_kill(const QuantizeWords& words, int commits) {
  const pid_t child = start_pare(words.list());
  const std::string file = commits == 0 ? "/job.json" : "/gen-" + std::to_string(commits) + ".json";
  wait_for_file(words.job() + file, child);
  ::kill(child, SIGKILL);
  return ended(child);
}

}  // namespace pare::test
