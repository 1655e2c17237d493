// pare_bench: every case of bench/, beside the limit of this machine and a peer. See bench/README.md.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <thread>

#include "bench/cases.h"
#include "bench/gpu_first_token.h"
#include "bench/gpu_models.h"
#include "bench/gpu_support.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/cuda/device_info.h"
#include "engine/backends/reference/reference_backend.h"
#include "engine/tensor/backend.h"

int main(int argc, char** argv) {
  using namespace pare::bench;
  RunOptions options;
  ModelInputs inputs;
  CLI::App app("Benchmarks: each case beside the limit of this machine and a peer, in the same rounds");
  app.add_option("--model", inputs.model, "dense model for the cases eval, decode and load");
  app.add_option("--compressed", inputs.compressed, ".pare files made from it");
  app.add_option("--text", inputs.text, "UTF-8 text for these cases");
  app.add_option("--python", inputs.python, "Python with torch and transformers");
  app.add_option("--peer-script", inputs.peer_script, "bench/peers/torch_dense.py");
  app.add_option("--train-peer-script", inputs.train_peer_script, "bench/peers/torch_train.py");
  app.add_option("--filter", options.filters,
                 "only cases whose name contains one of these texts, or begins with ^TEXT")
      ->delimiter(',');
  app.add_option("--threads", options.threads, "thread counts to run, 1,2 by default")->delimiter(',');
  app.add_option("--samples", options.samples, "rounds per case, 15 by default")->check(CLI::Range(3, 10000));
  app.add_option("--json", options.json, "append one JSON object per case and line to this file");
  app.add_option("--commit", options.commit, "commit of the sources, for the records");
  app.add_option("--dirty", options.dirty, "whether they differ from it")
      ->check(CLI::IsMember({"yes", "no"}));
  app.add_flag("--all", options.all, "every case, not only the headline ones");
  app.add_flag("--missing", options.is_missing, "only cases that the file of --json has no result of");
  app.add_flag("--headline", options.headline, "with --filter: only the headline cases among those");
  bool on_gpu = false;
  app.add_flag("--gpu", on_gpu, "the cases on GPU 0, and only these");
  bool is_tiny = false;
  app.add_flag("--tiny", is_tiny, "with --gpu: the cases of tiny models too, to try them on an emulator");
  options.case_seconds = 120;
  app.add_option("--case-seconds", options.case_seconds,
                 "with --gpu: a case that lasts longer is given up; 120 by default, 0: none is");
  std::string folder, first, form = "bf16";
  int64_t prompt = 16;
  std::vector<std::string> made;
  app.add_option("--folder", folder,
                 "with --gpu: where models for the cases load/gpu are written (room: 17 GB)");
  app.add_option("--make-model", made, "only write a model of random weights: SHAPE PATH")->expected(2);
  app.add_option("--form", form, "of --make-model: bf16, w8, w4, w4+head8 or w4+head4");
  app.add_option("--first-token", first,
                 "only load this model on GPU 0, run a prompt, and print the seconds");
  app.add_option("--prompt", prompt, "its tokens, 16 by default")->check(CLI::Range(1, 4096));
  app.add_flag("--list", options.list, "only print the names");
  CLI11_PARSE(app, argc, argv);

  pare::install_backend(pare::make_reference_backend());
  pare::install_backend(pare::make_cpu_backend());
  if (!made.empty()) {
    require(write_made_model(made[0], form, made[1]));
    return 0;
  }
  if (!first.empty()) return first_token(first, prompt);
  if (is_tiny) set_tiny();
  std::vector<NamedCase> cases;
  const auto add = [&](std::vector<NamedCase> more) {
    cases.insert(cases.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  };
  if (on_gpu) {
    // Else each case would say so.
    if (!options.list && !pare::built_with_cuda())
      give_up({.exit = pare::Exit::unsupported, .path = "cuda", .what = pare::why_no_gpu()});
    // The clock on the wall, and threads that fill files and buffers wherever there is a processor.
    options.threads = {std::max(2, int(std::thread::hardware_concurrency()))};
    options.pins = false;
    options.isolates = true;
    add(gpu_limit_cases());
    add(gpu_product_cases());
    add(gpu_attention_cases());
    add(gpu_decode_cases());
    add(gpu_train_cases());
    add(gpu_load_cases(folder));
    return run_benchmarks(options, cases);
  }
  if (!inputs.model.empty()) {
    add(evaluate_cases(inputs));
    add(decode_cases(inputs));
    add(load_cases(inputs));
    add(train_cases(inputs));
    add(linear_kl_cases(inputs));
  }
  add(matmul_cases());
  add(sparse_cases());
  add(teacher_top_k_cases());
  add(training_elementwise_cases());
  add(training_matmul_cases());
  add(vector_cases());
  add(training_vector_cases());
  return run_benchmarks(options, cases);
}
