// bench/cases.h: the cases of every hot path, one function per file.
#pragma once

#include <string>
#include <vector>

#include "bench/harness.h"

namespace pare::bench {

// What the cases on whole models work on; without a model there are none.
struct ModelInputs {
  std::string model;                    // dense, in any form that open_model() takes
  std::vector<std::string> compressed;  // .pare files made from it, "int4-g64.pare": the stem is the name
  std::string text;                     // UTF-8 file
  std::string python, peer_script;  // interpreter with torch and bench/peers/torch_dense.py; empty: no peer
  std::string train_peer_script;  // bench/peers/torch_train.py
};

std::vector<NamedCase> evaluate_cases(const ModelInputs& inputs);  // eval/ppl/...
std::vector<NamedCase> decode_cases(const ModelInputs& inputs);    // decode/...
std::vector<NamedCase> train_cases(const ModelInputs& inputs);     // train/step/...
std::vector<NamedCase> load_cases(const ModelInputs& inputs);      // load/cpu/warm/...
std::vector<NamedCase> matmul_cases();                             // cpu_gemv/..., cpu_gemm/..., cpu_pack/...
std::vector<NamedCase> sparse_cases();                             // cpu_sparse/...
std::vector<NamedCase> training_matmul_cases();                    // train_gemm/...
std::vector<NamedCase> training_vector_cases();                    // attn_backward/..., loss_rows/...
std::vector<NamedCase> vector_cases();                             // attn_prefill/..., cross_entropy/..., ...

}  // namespace pare::bench
