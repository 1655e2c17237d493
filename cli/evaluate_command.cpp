#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cli/commands.h"
#include "cli/evaluate_report.h"
#include "cli/evaluation_input.h"
#include "cli/kv_option.h"
#include "cli/model_argument.h"
#include "engine/core/file.h"
#include "engine/core/log.h"
#include "engine/core/progress.h"
#include "engine/core/text.h"
#include "engine/models/weight.h"
#include "engine/run/kv_cache.h"
#include "evaluate/evaluate.h"
#include "evaluate/gate.h"
#include "formats/safetensors.h"
#include "formats/tokenizer_files.h"

namespace pare::cli {
namespace {

struct Options {
  std::vector<std::string> models;
  std::string reference, data, tokenizer, kv;
  std::string protocol = "disjoint";
  int64_t context = 0, stride = 0, tokens = 0;
  std::string bos = "auto";
  std::vector<std::string> fail_if;
  std::string input_ids, save_logits;
  bool force = false, report = false;
};

const std::vector<std::string> kMetrics = {"perplexity", "ratio", "delta_perplexity", "kl", "kl_p99",
                                           "kl_max",     "top1"};

Error option_error(const std::string& option, const std::string& what, const std::string& got,
                   const std::string& limit) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = option,
               .where = {},
               .what = what,
               .got = got,
               .limit = limit};
}

// Bytes that walking a model block by block needs at least: its two largest tensors with their working
// copies, hidden states and logits of one pass.
uint64_t least_memory(const WeightSource& source, const ModelConfig& config) {
  uint64_t largest = 0;
  for (const StoredTensor& tensor : source.tensors())
    largest = std::max(largest, std::max(tensor.bytes, Weight::planned_bytes(tensor)));
  const EvaluateOptions defaults;
  return 3 * largest + uint64_t(4 * defaults.batch_tokens * config.hidden_size) +
         uint64_t(4 * defaults.logit_rows * config.vocabulary_size);
}

// Loads the model whole when it fits well into memory; else evaluate() walks it block by block.
// kv: nothing for what the model says.
Result<std::unique_ptr<Model>> open_model_for(const std::string& path, const CommonOptions& common,
                                              Device device, std::optional<KvQuant> kv) {
  PARE_TRY(const auto source, open_source(path, common));
  PARE_TRY(auto model, Model::open(source, device, kv));
  const uint64_t least = least_memory(*source, model->config());
  PARE_CHECK(check_memory(common, least, "raise --max-memory"));
  PARE_TRY(const uint64_t limit, memory_limit(common, device));
  // On the host quantized weights are repacked, so the file's pages and the working form exist side by side
  // for a while; on a GPU nothing else takes room. A teacher is there beside the model.
  const uint64_t room = device.is_host() ? limit / 4 : limit / 2 - std::min(least, limit / 2);
  if (running_bytes(*source) < room) PARE_CHECK(model->load_all());
  return model;
}

Result<ProtocolOptions> protocol_options(const Options& options, const ModelConfig& config) {
  ProtocolOptions result;
  PARE_TRY(result.protocol, parse_protocol(options.protocol));
  const int64_t usual = result.protocol == Protocol::llamacpp ? 512 : 2048;
  result.context = options.context > 0 ? options.context : std::min(usual, config.max_positions);
  if (result.context > config.max_positions) {
    return option_error("--context", "longer than the model's context", std::to_string(result.context),
                        std::to_string(config.max_positions));
  }
  if (result.context < 2)
    return option_error("--context", "too short to predict anything", std::to_string(result.context),
                        "2 or more");
  result.stride = options.stride > 0 ? options.stride : std::max<int64_t>(1, result.context / 2);
  if (result.stride > result.context) {
    return option_error("--stride", "longer than the context", std::to_string(result.stride),
                        std::to_string(result.context));
  }
  return result;
}

struct Row {
  std::string model;
  EvaluationInput input;
  ProtocolOptions protocol;
  EvaluateResult result;
  KvQuant kv;
  uint64_t cache_bytes = 0;  // of a window
};

double metric(const Row& row, const std::string& name) {
  const EvaluateResult& result = row.result;
  if (name == "perplexity") return result.perplexity.value;
  if (!result.damage) return std::nan("");
  if (name == "ratio") return std::exp(result.damage->log_ratio);
  if (name == "delta_perplexity") return result.damage->delta_perplexity;
  if (name == "kl") return result.damage->kl.value;
  if (name == "kl_p99") return result.damage->kl_p99;
  if (name == "kl_max") return result.damage->kl_max;
  return result.damage->top1_agreement.value;
}

Json to_json(const Row& row, const Tokenizer& tokenizer) {
  const EvaluateResult& result = row.result;
  Json json = Json::object();
  json["model"] = row.model;
  json["protocol"] = protocol_name(row.protocol.protocol);
  json["context"] = Json(row.protocol.context);
  if (row.protocol.protocol == Protocol::stride) json["stride"] = Json(row.protocol.stride);
  json["bos"] = row.input.bos;
  json["kv"] = row.kv.name();
  json["kv_cache_bytes"] = row.cache_bytes;
  json["perplexity"] = result.perplexity.value;
  json["perplexity_error"] = result.perplexity.error;
  json["perplexity_window_error"] = result.perplexity.window_error;
  json["mean_nll"] = result.perplexity.mean_nll;
  json["tokens"] = Json(result.perplexity.tokens);
  json["token_hash"] = row.input.token_hash;
  if (row.input.words > 0 && row.protocol.protocol == Protocol::word) {
    json["word_perplexity"] = std::exp(result.total_nll / double(row.input.words));
    json["bits_per_byte"] = result.total_nll / (std::log(2.0) * double(row.input.text_bytes));
  }
  if (result.damage) {
    const Damage& damage = *result.damage;
    json["reference_perplexity"] = result.reference->value;
    json["perplexity_ratio"] = std::exp(damage.log_ratio);
    json["log_ratio"] = damage.log_ratio;
    json["log_ratio_error"] = damage.log_ratio_error;
    json["delta_perplexity"] = damage.delta_perplexity;
    json["delta_perplexity_error"] = damage.delta_perplexity_error;
    json["kl_mean"] = damage.kl.value;
    json["kl_mean_error"] = damage.kl.error;
    json["kl_median"] = damage.kl_median;
    json["kl_p90"] = damage.kl_p90;
    json["kl_p95"] = damage.kl_p95;
    json["kl_p99"] = damage.kl_p99;
    json["kl_p999"] = damage.kl_p999;
    json["kl_max"] = damage.kl_max;
    json["top1_agreement"] = damage.top1_agreement.value;
    json["top1_agreement_error"] = damage.top1_agreement.error;
    json["mean_probability_change"] = damage.mean_probability_change;
    json["rms_probability_change"] = damage.rms_probability_change;
  }
  json["tokens_per_second"] = result.tokens_per_second;
  json["seconds"] = result.seconds;
  Json worst = Json::array();
  for (const TokenScore& score : result.worst) {
    Json entry = Json::object();
    entry["position"] = Json(score.position);
    entry["token"] = sanitize(tokenizer.decode(std::span(&row.input.ids[size_t(score.position)], 1), false));
    entry["nll"] = score.nll;
    if (result.damage) {
      entry["reference_nll"] = score.reference_nll;
      entry["kl"] = score.kl;
    }
    worst.push_back(std::move(entry));
  }
  json["worst_tokens"] = std::move(worst);
  return json;
}

void print_row(const Row& row) {
  const EvaluateResult& result = row.result;
  std::string protocol(protocol_name(row.protocol.protocol));
  protocol += " windows of " + std::to_string(row.protocol.context);
  if (row.protocol.protocol == Protocol::stride)
    protocol += ", stride " + std::to_string(row.protocol.stride);
  print_line(row.model);
  print_line("  protocol      " + protocol + ", BOS " + row.input.bos + ", " +
             format_count(uint64_t(result.perplexity.tokens)) + " tokens scored, stream " +
             row.input.token_hash);
  print_line("  perplexity    " + formatted(result.perplexity.value, "%.4f") + " ± " +
             formatted(result.perplexity.error, "%.4f"));
  if (row.protocol.protocol == Protocol::word && row.input.words > 0) {
    print_line("  per word      " + formatted(std::exp(result.total_nll / double(row.input.words)), "%.4f") +
               ", " + formatted(result.total_nll / (std::log(2.0) * double(row.input.text_bytes)), "%.4f") +
               " bits per byte");
  }
  if (result.damage) {
    const Damage& damage = *result.damage;
    print_line("  reference     " + formatted(result.reference->value, "%.4f") + "; ratio " +
               formatted(std::exp(damage.log_ratio), "%.4f") + ", difference " +
               formatted(damage.delta_perplexity, "%+.4f") + " ± " +
               formatted(damage.delta_perplexity_error, "%.4f") + " (paired)");
    print_line("  KL            mean " + formatted(damage.kl.value, "%.5f") + " ± " +
               formatted(damage.kl.error, "%.5f") + ", median " + formatted(damage.kl_median, "%.5f") +
               ", 99 % " + formatted(damage.kl_p99, "%.4f") + ", max " + formatted(damage.kl_max, "%.3f"));
    print_line("  same best     " + formatted(100.0 * damage.top1_agreement.value, "%.2f") + " ± " +
               formatted(100.0 * damage.top1_agreement.error, "%.2f") + " % of tokens");
  }
  if (!row.kv.is_none()) {
    print_line("  kv cache      " + std::string(row.kv.name()) + ", " + format_bytes(row.cache_bytes) +
               " for " + format_count(uint64_t(row.protocol.context)) + " tokens");
  }
  print_line("  speed         " + formatted(result.tokens_per_second, "%.0f") + " tokens/s");
}

Result<std::shared_ptr<const Tokenizer>> tokenizer_for(const Options& options, const WeightSource& source) {
  if (options.tokenizer.empty()) return load_tokenizer(source);
  PARE_TRY(const TokenizerFiles files, tokenizer_files(options.tokenizer));
  return Tokenizer::load(files);
}

// What --report asks for, before any work; nothing without it.
Result<std::optional<RunReport>> planned_report(const Options& options, const CommonOptions& common) {
  if (!options.report) return std::optional<RunReport>();
  if (options.models.size() != 1)
    return option_error("--report", "takes one MODEL", std::to_string(options.models.size()), "1");
  if (options.reference.empty()) return option_error("--report", "needs --reference", {}, {});
  if (!options.kv.empty())
    return option_error("--report", "is of the weights: cannot be combined with --kv", {}, {});
  PARE_TRY(const auto model, open_source(options.models[0], common));
  PARE_TRY(const auto reference, open_source(options.reference, common));
  PARE_TRY(RunReport report, report_to_extend(*model, *reference, common, options.force));
  return std::optional<RunReport>(std::move(report));
}

Result<Exit> run_perplexity(const Options& options, const CommonOptions& common) {
  std::vector<Gate> gates;
  for (const std::string& text : options.fail_if) {
    PARE_TRY(Gate gate, parse_gate(text, kMetrics));
    if (gate.metric != "perplexity" && options.reference.empty()) {
      return Error{.exit = Exit::usage,
                   .rule = "CL13",
                   .path = "--fail-if",
                   .where = {},
                   .what = "needs --reference",
                   .got = quote(gate.metric),
                   .limit = {}};
    }
    gates.push_back(std::move(gate));
  }
  PARE_TRY(const Protocol protocol_known, parse_protocol(options.protocol));
  static_cast<void>(protocol_known);
  PARE_TRY(std::optional<RunReport> report, planned_report(options, common));
  PARE_TRY(const TextData data, read_text_data(options.data));
  PARE_TRY(const Device device, chosen_device(common));
  std::unique_ptr<Model> reference;
  if (!options.reference.empty()) {
    // The yardstick keeps what it computes, whatever --kv or its own manifest say.
    PARE_TRY(reference, open_model_for(options.reference, common, device, KvQuant{}));
  }
  Json results = Json::array();
  std::string failed;
  for (const std::string& path : options.models) {
    PARE_TRY(auto model, open_model_for(path, common, device, asked_kv(options.kv)));
    PARE_TRY(const auto tokenizer, tokenizer_for(options, model->source()));
    warn_of_missing_rows(*tokenizer, model->config());
    Row row;
    row.model = path;
    PARE_TRY(row.protocol, protocol_options(options, model->config()));
    row.kv = model->config().kv;
    row.cache_bytes = KvCache::bytes_for(model->config(), 1, row.protocol.context);
    PARE_TRY(row.input,
             make_evaluation_input(
                 data, *tokenizer, model->config(),
                 {.protocol = row.protocol, .bos_policy = options.bos, .max_tokens = options.tokens}));
    if (data.has_unk_marker)
      log_warning(options.data + ": holds \"<unk>\": compare ratios only, not published values");
    EvaluateOptions evaluate_options;
    evaluate_options.bos_id = row.input.bos_id;
    {
      int64_t rows = 0;
      for (const EvaluationWindow& window : row.input.windows) rows += window.length;
      Progress progress("evaluate " + short_name(path), rows, "tokens");
      PARE_TRY(row.result, evaluate(*model, reference.get(), row.input.ids, row.input.windows,
                                    evaluate_options, [&](int64_t count) { progress.advance(count); }));
    }
    std::string report_path;
    if (report) {
      model.reset();
      reference.reset();  // there is one MODEL: neither is needed again
      PARE_TRY(const auto compressed, open_source(path, common));
      PARE_TRY(const auto original, open_source(options.reference, common));
      PARE_TRY(report_path, write_damage_report(*std::move(report), compressed, original, *tokenizer,
                                                row.input, short_name(options.data), common));
    }
    if (common.json) {
      results.push_back(to_json(row, *tokenizer));
      if (report) results.items().back()["report"] = report_path;
    } else {
      print_row(row);
      if (report) print_line("  report        " + report_path + ", shown by pare report");
    }
    for (const Gate& gate : gates) {
      const double value = metric(row, gate.metric);
      if (gate.fails(value) && failed.empty())
        failed = path + ": " + gate.text + " holds (" + gate.metric + " is " + format_double(value) + ")";
    }
  }
  if (common.json) {
    Json json = Json::object();
    json["schema_version"] = 1;
    json["results"] = std::move(results);
    if (!options.reference.empty()) json["reference"] = options.reference;
    json["data"] = options.data;
    print_json(json);
  }
  if (failed.empty()) return Exit::ok;
  PARE_CHECK(flush_stdout());
  return Error{.exit = Exit::gate,
               .rule = "CL12",
               .path = "--fail-if",
               .where = {},
               .what = failed,
               .got = {},
               .limit = {}};
}

Result<Tensor> read_input_ids(const std::string& path) {
  PARE_TRY(const auto tensors, read_safetensors(path));
  auto fail = [&](std::string what, std::string got) {
    return Error{.exit = Exit::malformed,
                 .rule = "CF09",
                 .path = path,
                 .where = "\"input_ids\"",
                 .what = std::move(what),
                 .got = std::move(got),
                 .limit = "int32 or int64, [tokens] or [sequences, tokens]",
                 .limit_label = "expected"};
  };
  for (const auto& [name, tensor] : tensors) {
    if (name != "input_ids") continue;
    const int rank = tensor.shape().rank();
    if (rank < 1 || rank > 2 || tensor.numel() == 0) return fail("wrong shape", tensor.shape().text());
    const Shape shape = rank == 2 ? tensor.shape() : Shape{1, tensor.size(0)};
    PARE_TRY(Tensor ids, Tensor::allocate(DType::i32, shape));
    int32_t* out = ids.mutable_data<int32_t>();
    for (int64_t i = 0; i < tensor.numel(); ++i) {
      if (tensor.dtype() == DType::i64) {
        const int64_t id = tensor.data<int64_t>()[i];
        if (id < 0 || id > INT32_MAX) return fail("id out of range", std::to_string(id));
        out[i] = int32_t(id);
      } else if (tensor.dtype() == DType::i32) {
        out[i] = tensor.data<int32_t>()[i];
      } else {
        return fail("wrong type", std::string(dtype_name(tensor.dtype())));
      }
    }
    return ids;
  }
  return fail("missing", {});
}

Result<Exit> run_logits(const Options& options, const CommonOptions& common) {
  if (options.models.size() != 1)
    return option_error("--input-ids", "takes one MODEL", std::to_string(options.models.size()), "1");
  if (options.save_logits.empty())
    return option_error("--input-ids", "needs --save-logits OUT.safetensors", {}, {});
  PARE_TRY(const Tensor ids, read_input_ids(options.input_ids));
  PARE_TRY(const Device device, chosen_device(common));
  PARE_TRY(auto model, open_model_for(options.models[0], common, device, asked_kv(options.kv)));
  WriteOptions write;
  write.force = options.force;
  PARE_TRY(const InputFile ids_file, InputFile::open(options.input_ids));
  write.inputs = model->source().file_identities();
  write.inputs.push_back(ids_file.identity());
  PARE_CHECK(check_output(options.save_logits, write));
  if (ids.size(1) > model->config().max_positions) {
    return option_error("--input-ids", "sequence longer than the model's context",
                        std::to_string(ids.size(1)), std::to_string(model->config().max_positions));
  }
  PARE_TRY(const Tensor logits, all_logits(*model, ids, {}));
  const std::pair<std::string, Tensor> tensors[] = {{"logits", logits}};
  PARE_CHECK(write_safetensors(options.save_logits, write, tensors));
  if (common.json) {
    Json json = Json::object();
    json["schema_version"] = 1;
    json["logits"] = options.save_logits;
    json["shape"] = Json(Json::Array{Json(logits.size(0)), Json(logits.size(1)), Json(logits.size(2))});
    print_json(json);
  } else {
    print_line(options.save_logits + ": logits " + logits.shape().text() + " float32");
  }
  return Exit::ok;
}

Result<Exit> run_evaluate(const Options& options, const CommonOptions& common) {
  PARE_CHECK(start_engine(common));
  if (!options.input_ids.empty() && !options.data.empty()) {
    return option_error("--input-ids", "cannot be combined with --data", {}, {});
  }
  if (!options.input_ids.empty() && options.report)
    return option_error("--report", "cannot be combined with --input-ids", {}, {});
  if (options.input_ids.empty() && !options.save_logits.empty()) {
    return option_error("--save-logits", "needs --input-ids", {}, {});
  }
  if (!options.input_ids.empty()) return run_logits(options, common);
  if (options.data.empty())
    return option_error("--data", "missing; give a text file, or --input-ids with --save-logits", {}, {});
  return run_perplexity(options, common);
}

}  // namespace

void add_evaluate(CLI::App& app, Commands& commands) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("evaluate", "perplexity of models, and the damage against a reference");
  verb->add_option("MODEL", options->models, "one or more models")
      ->required()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  verb->add_option("--data", options->data, "UTF-8 text, .jsonl with `text`, or - for stdin")
      ->type_name("FILE");
  verb->add_option("--reference", options->reference,
                   "the model before compression: adds KL, agreement and paired errors")
      ->type_name("MODEL");
  verb->add_option("--protocol", options->protocol,
                   "disjoint (papers), stride (Hugging Face), llamacpp, word (lm-eval); values of two "
                   "protocols never compare")
      ->capture_default_str()
      ->type_name("NAME");
  verb->add_option("--context", options->context,
                   "tokens per window (default: 2048, llamacpp 512, at most the model's)")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 30))
      ->type_name("N");
  verb->add_option("--stride", options->stride, "step of the stride protocol (default: half the context)")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 30))
      ->type_name("N");
  verb->add_option("--tokens", options->tokens, "only the first N tokens of the text")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 40))
      ->type_name("N");
  verb->add_option("--bos", options->bos,
                   "BOS token: auto (as the tokenizer does), once, always (every window), never")
      ->check(CLI::IsMember({"auto", "once", "always", "never"}))
      ->capture_default_str()
      ->type_name("POLICY");
  add_kv_option(verb, options->kv);
  verb->add_option("--tokenizer", options->tokenizer,
                   "tokenizer.json, or a folder with one, when the model has none")
      ->type_name("PATH");
  verb->add_option("--fail-if", options->fail_if,
                   "end with exit code 9 when it holds, for example 'kl>0.05' or 'ratio>1.02'")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->type_name("EXPRESSION");
  verb->add_option("--input-ids", options->input_ids,
                   "safetensors with `input_ids`: only compute logits, no perplexity")
      ->type_name("FILE");
  verb->add_option("--save-logits", options->save_logits, "where the float32 logits of --input-ids go")
      ->type_name("OUT");
  verb->add_flag("--report", options->report,
                 "with --reference: also write MODEL.report.json, which `pare report MODEL` shows");
  verb->add_flag("--force", options->force, "replace an existing --save-logits file or report");
  add_common(verb, commands, true);
  verb->footer("Metrics of --fail-if: perplexity, ratio, delta_perplexity, kl, kl_p99, kl_max, top1.");
  commands.on(verb, [options, &commands] { return run_evaluate(*options, commands.common()); });
}

}  // namespace pare::cli
