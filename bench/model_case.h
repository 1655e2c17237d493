// bench/model_case.h: what the cases on whole models share.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/models/model.h"

namespace pare::bench {

// A benchmark cannot go on without its inputs: prints the error and ends the program with its exit code.
[[noreturn]] void give_up(const Error& error);
// Is told first, so that a record can say why there is none.
void on_give_up(std::function<void(const std::string& why)> listener);
template <typename T>
T require(Result<T> result) {
  if (!result) give_up(result.error());
  return std::move(*result);
}
inline void require(const Status& status) {
  if (!status) give_up(status.error());
}

std::string base_name(const std::string& path);  // "samples/books-3m/" -> "books-3m"
std::string stem(const std::string& path);       // "out/int4-g64.pare" -> "int4-g64"
std::string weights_name(
    const WeightSource& source);  // dtype or scheme of the largest matrix: "bf16", "int4-g64"

std::shared_ptr<const WeightSource> open_source(const std::string& model, bool verify_checksums = true);
std::unique_ptr<Model> load_model(std::shared_ptr<const WeightSource> source, Device device);
std::vector<int32_t> token_ids(const WeightSource& source, const std::string& text_path);

// Bytes of weights, as stored, that one token needs: all but a separate embedding and a table of positions.
double bytes_per_token(const Model& model);
// Operations of a pass over sequences from their beginning, head included, attention over the causal half.
double operations(const Model& model, const Batch& batch);

// Largest difference between the logits of `model` and of the reference backend on the same weights, in
// shares of the bound: 1e-4 of the largest logit.
double logits_error(Model& model, std::span<const int32_t> ids);

}  // namespace pare::bench
