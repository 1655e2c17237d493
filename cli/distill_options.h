// cli/distill_options.h: the options of `pare distill` and `pare finetune`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/job_arguments.h"

namespace pare::cli {

// JobArguments::model is the student: --student of distill, MODEL of finetune.
struct DistillArguments : JobArguments {
  bool is_distill = true;  // false: finetune, that is, cross entropy alone
  std::string teacher;
  std::string student_config;      // a student with fresh weights
  std::vector<std::string> files;  // --data, each with an optional "=weight"

  // Loss.
  std::string loss;  // empty: kl for a student cut from its teacher, else ce+kl
  std::optional<double> alpha, temperature;
  double jsd_beta = 0.5;
  std::string kd_t2 = "on";
  std::string hidden_loss = "none", layer_map;
  double hidden_weight = 0.0;
  bool attention_loss = false;
  int64_t relation_heads = 0;

  // Length and batches.
  std::optional<int64_t> steps, micro_batch, warmup;
  std::optional<double> minutes;
  int64_t batch = 16;
  bool no_shuffle = false, mask_document_starts = false;
  std::string token_cache;
  std::optional<int64_t> max_tokens;  // of each file

  // Optimizer.
  std::optional<double> lr, lr_min;
  std::string schedule = "cosine", optimizer = "adamw";
  int64_t decay_steps = 0;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, momentum = 0.9, weight_decay = 0.1, clip = 1.0;
  bool decay_embeddings = false, shard_optimizer = false;
  int64_t skip_bad_steps = 0;

  // Numbers and memory.
  std::string compute = "auto", recompute = "auto";

  // Teacher.
  std::string teacher_blocks = "whole", cache_teacher, tail = "bucket";
  int64_t top_k = 64;

  // What is trained.
  int64_t lora = 0;
  double lora_alpha = 16.0;
  std::string keep_masks = "auto", qat, qat_activations = "none", sparsity_schedule;
  double step_rate = 10.0;

  // Privacy.
  std::optional<double> dp_clip, dp_noise, dp_delta;

  // Watching it.
  std::string validate, checkpoint_every = "60s", tensorboard;
  double validation_share = 0.01;
  int64_t validation_tokens = 32'768;
  std::optional<int64_t> evaluate_every;
  int64_t patience = 0;

  // Whether products take what is trained, without a copy in another type.
  bool multiplies_masters() const { return compute == "f32" || compute == "auto"; }
  bool is_private() const { return dp_clip.has_value() || dp_noise.has_value() || dp_delta.has_value(); }
  const char* command() const { return is_distill ? "distill" : "finetune"; }
};

void add_distill_options(CLI::App& verb, DistillArguments& arguments);
void add_finetune_options(CLI::App& verb, DistillArguments& arguments);

// What --compute auto stands for on the device that is named. Exit 2 (CL13): f32 where products are bf16.
Result<std::string> compute_type(const DistillArguments& arguments, const CommonOptions& common);
// Options that contradict each other, whatever the models are: exit 2 (CL13, CL06).
Status check_distill_arguments(const DistillArguments& arguments);

// "text.txt=2.5": the file and its weight, 0 where none is given. A name that ends in "=<number>" itself must
// be given with a weight. Exit 2 (CL06).
struct WeightedFile {
  std::string path;
  double weight = 0.0;
};
Result<WeightedFile> parse_weighted_file(const std::string& text);

// --checkpoint-every: "60s" or "5min" of time, or "200": steps. Exit 2 (CL06).
struct CheckpointRule {
  double seconds = 60.0;  // 0: by steps
  int64_t steps = 0;      // 0: by time
};
Result<CheckpointRule> parse_checkpoint_rule(const std::string& text);

}  // namespace pare::cli
