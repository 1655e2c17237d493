// tests/prune/structured/tiny_structured.h: structured pruning of a model in memory, from windows to the
// source that is left.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/core/job_folder.h"
#include "prune/structured/structured_job.h"
#include "tests/support/compare.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"

namespace pare::test {

// A tiny model of each mapped family, with what makes it different.
inline constexpr const char* kTinyQwen2 = R"({
  "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 40, "hidden_size": 24,
  "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4,
  "max_position_embeddings": 64, "tie_word_embeddings": true, "use_sliding_window": true, "sliding_window": 8,
  "max_window_layers": 2})";
inline constexpr const char* kTinyQwen3 = R"({
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 40, "hidden_size": 24,
  "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
  "max_position_embeddings": 64, "tie_word_embeddings": false, "use_sliding_window": true, "sliding_window": 8,
  "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]})";
inline constexpr const char* kTinyBiased = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40, "hidden_size": 24,
  "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
  "max_position_embeddings": 64, "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true})";

inline CalibrationWindows random_windows(int64_t samples, int64_t context, int64_t vocabulary = 40) {
  CalibrationWindows windows{
      .ids = {}, .samples = samples, .context = context, .token_hash = "t", .text_hash = "x"};
  const Random random(11, RandomPurpose::test_data, "windows");
  for (int64_t i = 0; i < samples * context; ++i)
    windows.ids.push_back(int32_t(random.below(uint64_t(vocabulary), uint64_t(i))));
  return windows;
}

inline StructuredJob structured_job(std::shared_ptr<const WeightSource> source) {
  StructuredJob job;
  job.model = checked(describe_model(*source));
  job.source = std::move(source);
  job.windows = random_windows(8, 16);
  job.memory_limit = uint64_t(1) << 34;
  job.options.sizes = checked(shape_of(job.model.config, "tiny"));
  job.options.keep_first = job.options.keep_last = 0;
  job.options.multiple = 1;
  return job;
}

// Runs a job in a folder of its own. The folder stays as long as this does, and the model with it.
struct StructuredRun {
  std::optional<JobFolder> folder;
  std::shared_ptr<const WeightSource> model;
  std::optional<Error> error;

  explicit StructuredRun(StructuredJob& job, const std::string& path = memory_folder() + "/job",
                         JobMode mode = JobMode::fresh) {
    folder.emplace(checked(JobFolder::open(path, Json::object(), mode)));
    const auto run = [&]() -> Status {
      PARE_CHECK(decide_units(job, *folder));
      PARE_TRY(const BlockJobResult done, run_structured(job, *folder));
      static_cast<void>(done);
      PARE_TRY(model, structured_model(job, *folder));
      return {};
    };
    if (const Status status = run(); !status) error = status.error();
  }
};

inline Tensor logits_of(std::shared_ptr<const WeightSource> source, int64_t vocabulary = 40) {
  const auto model = checked(Model::open(std::move(source), Device::cpu()));
  const CalibrationWindows windows = random_windows(2, 12, vocabulary);
  return walk(*model, tensor_of(windows.ids, Device::cpu()), {.sequences = 2, .tokens_per_sequence = 12})
      .logits;
}

// All tensors of a source as they are stored, by name.
inline std::map<std::string, std::string> bytes_of(const WeightSource& source) {
  std::map<std::string, std::string> bytes;
  for (const StoredTensor& stored : source.tensors()) {
    const WeightData data = checked(source.load(stored.name));
    bytes[stored.name].assign(reinterpret_cast<const char*>(data.dense().raw()), data.dense().size_bytes());
  }
  return bytes;
}

}  // namespace pare::test
