// pare_bench: every case of bench/, beside the limit of this machine and a peer. See bench/README.md.
#include <CLI/CLI.hpp>

#include "bench/cases.h"
#include "engine/backends/cpu/cpu_backend.h"
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
  app.add_option("--filter", options.filters, "only cases whose name contains one of these texts")
      ->delimiter(',');
  app.add_option("--threads", options.threads, "thread counts to run, 1,2 by default")->delimiter(',');
  app.add_option("--samples", options.samples, "rounds per case, 15 by default")->check(CLI::Range(3, 10000));
  app.add_option("--json", options.json, "append one JSON object per case and line to this file");
  app.add_option("--commit", options.commit, "commit of the sources, for the records");
  app.add_option("--dirty", options.dirty, "whether they differ from it")
      ->check(CLI::IsMember({"yes", "no"}));
  app.add_flag("--all", options.all, "every case, not only the headline ones");
  bool on_gpu = false;
  app.add_flag("--gpu", on_gpu, "the cases on GPU 0, and only these");
  app.add_flag("--list", options.list, "only print the names");
  CLI11_PARSE(app, argc, argv);

  pare::install_backend(pare::make_reference_backend());
  pare::install_backend(pare::make_cpu_backend());
  std::vector<NamedCase> cases;
  const auto add = [&](std::vector<NamedCase> more) {
    cases.insert(cases.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  };
  if (on_gpu) {
    options.threads = {1};
    add(gpu_product_cases());
    add(gpu_attention_cases());
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
