#include "bench/gpu_first_token.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "bench/gpu_support.h"
#include "bench/probes.h"
#include "engine/core/random.h"
#include "engine/run/sequence_runner.h"

namespace pare::bench {
namespace {

double clock_seconds(clockid_t clock) {
  timespec t{};
  ::clock_gettime(clock, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// When this process began, on CLOCK_BOOTTIME: field 22 of its stat, in ticks (proc(5)); to 10 ms.
double process_start() {
  const std::string stat = kernel_text("/proc/self/stat");
  size_t at = stat.rfind(')');
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = stat.find(' ', at + 1);
  return at == std::string::npos ? 0.0
                                 : std::strtod(stat.c_str() + at, nullptr) / double(::sysconf(_SC_CLK_TCK));
}

}  // namespace

int first_token(const std::string& model_path, int64_t prompt) {
  const double start = process_start();
  double last = clock_seconds(CLOCK_BOOTTIME);
  Json json = Json::object();
  json["before_main"] = last - start;
  const auto stage = [&](const char* name) {
    const double now = clock_seconds(CLOCK_BOOTTIME);
    json[name] = now - last;
    last = now;
  };
  (void)gpu();
  stage("device");
  const auto model = load_model(open_source(model_path), gpu_device());
  require(gpu().finish());
  stage("load");
  SequenceRunner runner = require(SequenceRunner::create(*model, prompt, prompt + 1));
  const Random random(5, RandomPurpose::test_data);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < prompt; ++i)
    ids.push_back(int32_t(random.below(uint64_t(model->config().vocabulary_size), uint64_t(i))));
  require(runner.run(ids));
  const auto logits = runner.logits();
  json["first_id"] = int64_t(std::ranges::max_element(logits) - logits.begin());
  stage("prompt");
  json["prompt_tokens"] = prompt;
  json["total"] = last - start;
  const std::string line = json.dump() + "\n";
  return ::write(STDOUT_FILENO, line.data(), line.size()) == ssize_t(line.size()) ? 0 : 5;
}

}  // namespace pare::bench
