#include "cli/distill_options.h"

#include <CLI/CLI.hpp>

namespace pare::cli {
namespace {

const char* const kTraining = "Training";
const char* const kLoss = "Loss";
const char* const kTeacher = "Teacher";
const char* const kTrained = "What is trained";
const char* const kWatch = "Validation and logs";
const char* const kPrivacy = "Privacy";

void add_data(CLI::App& verb, DistillArguments& arguments) {
  const char* group = "Data";
  verb.add_option(
          "--data", arguments.files,
          "training data: text, JSONL with `text` or `messages`, or token ids in safetensors; several "
          "may be given, with weights or without: a.txt=3 b.txt=1 (default: in proportion to their "
          "lengths)")
      ->required()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("FILE[=WEIGHT]")
      ->group(group);
  verb.add_option("--context", arguments.context,
                  "tokens per window (default: 2048, or the model's context if shorter)")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 24))
      ->type_name("N")
      ->group(group);
  verb.add_option("--bos", arguments.bos,
                  "BOS at the start of each window: auto (as the tokenizer does), always, never")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str()
      ->type_name("POLICY")
      ->group(group);
  verb.add_option("--chat-template", arguments.chat_template, "named template for `messages`")
      ->capture_default_str()
      ->type_name("NAME")
      ->group(group);
  verb.add_flag("--parse-special", arguments.parse_special, "let messages hold the text of special tokens")
      ->group(group);
  verb.add_flag("--no-shuffle", arguments.no_shuffle, "windows in reading order")->group(group);
  verb.add_flag("--mask-document-starts", arguments.mask_document_starts,
                "do not learn the first token of a document, which nothing foretells")
      ->group(group);
  verb.add_option("--max-tokens", arguments.max_tokens, "only the first tokens of each file")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 40))
      ->type_name("N")
      ->group(group);
  verb.add_option("--token-cache", arguments.token_cache,
                  "folder for encoded texts, so that a large text is tokenised once")
      ->type_name("DIR")
      ->group(group);
}

void add_training(CLI::App& verb, DistillArguments& arguments) {
  verb.add_option("--steps", arguments.steps, "optimizer steps")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N")
      ->group(kTraining);
  verb.add_option("--minutes", arguments.minutes,
                  "as many steps as fit: the first few are timed, and the number is then fixed")
      ->check(CLI::Range(0.01, 1e6))
      ->type_name("M")
      ->group(kTraining);
  verb.add_option("--batch", arguments.batch, "windows per step, over all processes")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str()
      ->type_name("N")
      ->group(kTraining);
  verb.add_option("--micro-batch", arguments.micro_batch,
                  "windows that go through the student at a time (default: of about 4096 tokens)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->type_name("N")
      ->group(kTraining);
  verb.add_option("--lr", arguments.lr,
                  "peak learning rate (default: 1e-4; 1e-5 with --qat, 6e-4 with fresh weights)")
      ->check(CLI::Range(1e-12, 1e3))
      ->type_name("X")
      ->group(kTraining);
  verb.add_option("--lr-min", arguments.lr_min, "what the schedule goes down to (default: a tenth of --lr)")
      ->check(CLI::Range(0.0, 1e3))
      ->type_name("X")
      ->group(kTraining);
  verb.add_option("--warmup", arguments.warmup, "steps of warm-up (default: a tenth, at most 100)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->type_name("N")
      ->group(kTraining);
  verb.add_option("--schedule", arguments.schedule,
                  "learning rate after warm-up: cosine, linear, constant, wsd (stable, then decay)")
      ->check(CLI::IsMember({"cosine", "linear", "constant", "wsd"}))
      ->capture_default_str()
      ->type_name("SHAPE")
      ->group(kTraining);
  verb.add_option("--decay-steps", arguments.decay_steps, "steps of the decay of wsd (default: a tenth)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->type_name("N")
      ->group(kTraining);
  verb.add_option("--optimizer", arguments.optimizer, "adamw or sgd")
      ->check(CLI::IsMember({"adamw", "sgd"}))
      ->capture_default_str()
      ->type_name("NAME")
      ->group(kTraining);
  const auto number = [&](const char* name, double& target, const char* help, double low, double high) {
    verb.add_option(name, target, help)
        ->check(CLI::Range(low, high))
        ->capture_default_str()
        ->type_name("X")
        ->group(kTraining);
  };
  number("--beta1", arguments.beta1, "decay of the first moment (adamw)", 0.0, 0.999999);
  number("--beta2", arguments.beta2, "decay of the second moment (adamw)", 0.0, 0.999999999);
  number("--eps", arguments.eps, "added to the root of the second moment (adamw)", 1e-30, 1.0);
  number("--momentum", arguments.momentum, "of sgd", 0.0, 0.999999);
  number("--weight-decay", arguments.weight_decay, "of matrices; norms and biases do not decay", 0.0, 10.0);
  number("--clip", arguments.clip, "limit of the global norm of the gradient; 0: none", 0.0, 1e12);
  verb.add_flag("--decay-embeddings", arguments.decay_embeddings, "weight decay for embedding and head too")
      ->group(kTraining);
  verb.add_option(
          "--compute", arguments.compute,
          "type of the products: f32, bf16, f16 (with a dynamic scale of the loss), auto (bf16 on a GPU, f32 "
          "elsewhere); what is trained is f32")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "f16"}))
      ->capture_default_str()
      ->type_name("TYPE")
      ->group(kTraining);
  verb.add_option("--recompute", arguments.recompute,
                  "run each block again before its backward pass instead of keeping its activations: auto "
                  "(where memory is short), on, off; the same bytes")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str()
      ->type_name("WHEN")
      ->group(kTraining);
  verb.add_flag("--shard-optimizer", arguments.shard_optimizer,
                "under mpirun: each process keeps the moments of its share of the weights")
      ->group(kTraining);
  verb.add_option("--skip-bad-steps", arguments.skip_bad_steps,
                  "steps with a loss that is NaN or infinite that are left out, instead of stopping")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str()
      ->type_name("N")
      ->group(kTraining);
}

void add_trained(CLI::App& verb, DistillArguments& arguments) {
  verb.add_option("--qat", arguments.qat,
                  "train for this scheme: weights are rounded to it in every step, with learned scales "
                  "(int4-g64-sym, int8-ch ...)")
      ->type_name("SCHEME")
      ->group(kTrained);
  verb.add_option("--qat-activations", arguments.qat_activations,
                  "round the inputs of the matrices to 8 bits as well: none, dynamic (a scale per token), "
                  "dynamic-asym (and a zero point), static (one learned scale per matrix)")
      ->check(CLI::IsMember({"none", "dynamic", "dynamic-asym", "static"}))
      ->capture_default_str()
      ->type_name("MODE")
      ->group(kTrained);
  verb.add_option("--step-rate", arguments.step_rate, "rate of the learned scales, as a multiple of --lr")
      ->check(CLI::Range(1e-6, 1e6))
      ->capture_default_str()
      ->type_name("X")
      ->group(kTrained);
  verb.add_option(
          "--lora", arguments.lora,
          "train two factors of this rank beside each matrix, and nothing else; they are added in at the end")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->type_name("RANK")
      ->group(kTrained);
  verb.add_option("--lora-alpha", arguments.lora_alpha, "their product counts alpha / rank times")
      ->check(CLI::Range(1e-6, 1e6))
      ->capture_default_str()
      ->type_name("X")
      ->group(kTrained);
  verb.add_option("--keep-masks", arguments.keep_masks,
                  "weights that are zero stay zero: auto (on when the student was pruned), on, off")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str()
      ->type_name("WHEN")
      ->group(kTrained);
  verb.add_option(
          "--sparsity-schedule", arguments.sparsity_schedule,
          "prune by magnitude while training, to this share and along a cubic curve from step BEGIN to "
          "END in N cuts: 0.5, or 0.5@100:800:20 (default: the middle 8 tenths in 20 cuts)")
      ->type_name("SHARE[@BEGIN:END[:N]]")
      ->group(kTrained);
}

void add_privacy(CLI::App& verb, DistillArguments& arguments) {
  verb.add_option("--dp-clip", arguments.dp_clip,
                  "differentially private training: the gradient of each window is clipped to this norm")
      ->check(CLI::Range(1e-12, 1e12))
      ->type_name("C")
      ->group(kPrivacy);
  verb.add_option("--dp-noise", arguments.dp_noise, "deviation of the noise, as a multiple of --dp-clip")
      ->check(CLI::Range(1e-6, 1e6))
      ->type_name("SIGMA")
      ->group(kPrivacy);
  verb.add_option("--dp-delta", arguments.dp_delta,
                  "delta that epsilon is reported for (default: 1 / windows)")
      ->check(CLI::Range(1e-30, 0.5))
      ->type_name("DELTA")
      ->group(kPrivacy);
}

void add_watching(CLI::App& verb, DistillArguments& arguments) {
  verb.add_option("--validate", arguments.validate, "text that is not trained on, for validation")
      ->type_name("FILE")
      ->group(kWatch);
  verb.add_option("--validation-share", arguments.validation_share,
                  "share of the data that is held out for validation, where --validate is not given; 0: none")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str()
      ->type_name("X")
      ->group(kWatch);
  verb.add_option("--validation-tokens", arguments.validation_tokens, "tokens of a validation, at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str()
      ->type_name("N")
      ->group(kWatch);
  verb.add_option("--evaluate-every", arguments.evaluate_every,
                  "steps between validations (default: a tenth of the run)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N")
      ->group(kWatch);
  verb.add_option(
          "--patience", arguments.patience,
          "stop when so many validations in a row were not better, and keep the best weights; 0: never")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str()
      ->type_name("N")
      ->group(kWatch);
  verb.add_option("--tensorboard", arguments.tensorboard, "folder for TensorBoard event files")
      ->type_name("DIR")
      ->group(kWatch);
}

void add_rest(CLI::App& verb, DistillArguments& arguments) {
  add_training(verb, arguments);
  add_trained(verb, arguments);
  add_watching(verb, arguments);
  add_privacy(verb, arguments);
  add_report_options(verb, arguments);
  add_job_options(verb, arguments);
  verb.add_option("--checkpoint-every", arguments.checkpoint_every,
                  "time between commits of the job (60s, 5min), or a number of steps")
      ->capture_default_str()
      ->type_name("WHEN")
      ->group("Job");
}

void add_output(CLI::App& verb, DistillArguments& arguments) {
  verb.add_option("-o,--output", arguments.output.path,
                  "where to write: NAME.pare, or a directory of safetensors")
      ->required()
      ->type_name("OUT");
  verb.add_option("--dtype", arguments.output.dense_dtype,
                  "type of the weights in the output: f32, bf16, f16 (default: as in the student)")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}))
      ->type_name("TYPE");
  verb.add_flag("--dry-run", arguments.dry_run, "say what would be trained and what it would take, and stop");
  verb.add_flag("--force", arguments.output.force, "replace an existing output");
}

void add_loss(CLI::App& verb, DistillArguments& arguments) {
  verb.add_option(
          "--loss", arguments.loss,
          "what the student learns from: kl, ce, ce+kl, reverse-kl, jsd, tvd (default: kl for a student "
          "cut from this teacher, else ce+kl)")
      ->check(CLI::IsMember({"kl", "ce", "ce+kl", "reverse-kl", "jsd", "tvd"}))
      ->type_name("LOSS")
      ->group(kLoss);
  verb.add_option("--alpha", arguments.alpha, "share of the cross entropy (default: 0; 0.5 with ce+kl)")
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("X")
      ->group(kLoss);
  verb.add_option("--temperature", arguments.temperature,
                  "of both distributions in the divergence (default: 1; 2 for an unrelated student)")
      ->check(CLI::Range(0.01, 1000.0))
      ->type_name("X")
      ->group(kLoss);
  verb.add_option("--kd-t2", arguments.kd_t2, "multiply the divergence by temperature^2: on, off")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str()
      ->type_name("WHEN")
      ->group(kLoss);
  verb.add_option("--jsd-beta", arguments.jsd_beta, "weight of the teacher in the mixture of jsd")
      ->check(CLI::Range(0.001, 0.999))
      ->capture_default_str()
      ->type_name("X")
      ->group(kLoss);
  verb.add_option("--hidden-loss", arguments.hidden_loss, "compare hidden states as well: none, mse, cosine")
      ->check(CLI::IsMember({"none", "mse", "cosine"}))
      ->capture_default_str()
      ->type_name("LOSS")
      ->group(kLoss);
  verb.add_option("--hidden-weight", arguments.hidden_weight,
                  "weight of hidden and attention losses; 0: as much as the loss of the logits")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str()
      ->type_name("X")
      ->group(kLoss);
  verb.add_option(
          "--layer-map", arguments.layer_map,
          "which of the teacher's layers each of the student's came from: 0,1,3 (default: spread evenly)")
      ->type_name("LIST")
      ->group(kLoss);
  verb.add_flag("--attention-loss", arguments.attention_loss,
                "compare the attention of the last layers (relations of queries, keys and values)")
      ->group(kLoss);
  verb.add_option("--relation-heads", arguments.relation_heads,
                  "heads of those relations (default: as many as divide both widths)")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->type_name("N")
      ->group(kLoss);
}

void add_teacher(CLI::App& verb, DistillArguments& arguments) {
  verb.add_option("--teacher-blocks", arguments.teacher_blocks,
                  "hold the teacher whole, or load it one-by-one, block by block in every batch")
      ->check(CLI::IsMember({"whole", "one-by-one"}))
      ->capture_default_str()
      ->type_name("HOW")
      ->group(kTeacher);
  verb.add_option(
          "--cache-teacher", arguments.cache_teacher,
          "run the teacher once over all windows, keep its best ids and their probabilities in this "
          "folder, and train from there without it; an existing cache of the same teacher and data is "
          "used again")
      ->type_name("DIR")
      ->group(kTeacher);
  verb.add_option("--top-k", arguments.top_k, "ids kept per token in the cache")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->capture_default_str()
      ->type_name("K")
      ->group(kTeacher);
  verb.add_option(
          "--tail", arguments.tail,
          "what the loss does with the ids that are not in the cache: bucket (one sum), zero (they have "
          "no probability), topk (they are left out on both sides)")
      ->check(CLI::IsMember({"bucket", "zero", "topk"}))
      ->capture_default_str()
      ->type_name("HOW")
      ->group(kTeacher);
}

}  // namespace

void add_distill_options(CLI::App& verb, DistillArguments& arguments) {
  arguments.is_distill = true;
  verb.add_option("--teacher", arguments.teacher, "the model to imitate")->required()->type_name("MODEL");
  verb.add_option("--student", arguments.model,
                  "the model that learns (default with --qat: the teacher itself)")
      ->type_name("MODEL");
  verb.add_option("--student-config", arguments.student_config,
                  "config.json of a student with fresh weights; tokenizer and other files are the teacher's")
      ->type_name("FILE");
  add_output(verb, arguments);
  add_data(verb, arguments);
  add_loss(verb, arguments);
  add_teacher(verb, arguments);
  add_rest(verb, arguments);
}

void add_finetune_options(CLI::App& verb, DistillArguments& arguments) {
  arguments.is_distill = false;
  arguments.loss = "ce";
  verb.add_option("MODEL", arguments.model, "what to train")->required();
  add_output(verb, arguments);
  add_data(verb, arguments);
  add_rest(verb, arguments);
}

}  // namespace pare::cli
