#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "cli/backends.h"
#include "cli/commands.h"
#include "cli/kv_option.h"
#include "cli/model_argument.h"
#include "engine/core/file.h"
#include "engine/core/limits.h"
#include "engine/core/log.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"
#include "engine/run/session.h"
#include "formats/tokenizer_files.h"

namespace pare::cli {
namespace {

struct Options {
  std::string model;
  std::string prompt, file, tokenizer, kv;
  bool has_prompt = false;
  GenerateOptions generate;
  int64_t context = 0;
  bool ignore_eos = false, parse_special = false, echo = false, raw = false;
};

Result<std::string> read_prompt(const Options& options) {
  if (options.has_prompt && !options.file.empty()) {
    return Error{.exit = Exit::usage, .rule = "CL13", .path = "-f", .what = "cannot be combined with -p"};
  }
  if (options.has_prompt) return options.prompt;
  if (!options.file.empty() && options.file != "-")
    return read_text_file(options.file, limits::kTextLineBytes);
  if (options.file.empty() && ::isatty(STDIN_FILENO) == 1) {
    return Error{.exit = Exit::usage,
                 .rule = "CL06",
                 .path = "-p",
                 .where = {},
                 .what = "no prompt; give -p TEXT, -f FILE, or text on stdin",
                 .got = {},
                 .limit = {}};
  }
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t count = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0)
      return Error{.exit = Exit::io,
                   .rule = "DT10",
                   .path = "stdin",
                   .where = {},
                   .what = std::strerror(errno),
                   .got = {},
                   .limit = {}};
    if (count == 0) return text;
    text.append(buffer, size_t(count));
  }
}

Status check_encoding(const std::string& prompt) {
  const size_t bad = first_invalid_utf8(prompt);
  if (bad == 0) return {};
  return Error{.exit = Exit::malformed,
               .rule = "DT04",
               .path = "prompt",
               .where = "byte " + std::to_string(bad - 1),
               .what = "not valid UTF-8",
               .got = {},
               .limit = {}};
}

// A model's text may hold control characters; on a terminal they are shown, not obeyed. Newline and tab pass.
std::string shown(std::string_view text, bool filter) {
  if (!filter) return std::string(text);
  std::string out;
  size_t begin = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] != '\n' && text[i] != '\t' && text[i] != '\\') continue;
    out += sanitize(text.substr(begin, i - begin));
    if (i < text.size()) out += text[i];
    begin = i + 1;
  }
  return out;
}

Json to_json(const Options& options, const GenerateResult& result, KvQuant kv) {
  Json json = Json::object();
  json["schema_version"] = 1;
  json["model"] = options.model;
  json["text"] = result.text;
  Json ids = Json::array();
  for (int32_t id : result.ids) ids.push_back(Json(id));
  json["ids"] = std::move(ids);
  json["stop_reason"] = stop_reason_name(result.reason);
  json["prompt_tokens"] = Json(result.prompt_tokens);
  json["new_tokens"] = Json(int64_t(result.ids.size()));
  json["kv"] = kv.name();
  json["kv_cache_bytes"] = result.cache_bytes;
  add_peak_memory(json);
  json["prefill_tokens_per_second"] =
      result.prefill_seconds > 0 ? double(result.prompt_tokens) / result.prefill_seconds : 0.0;
  json["decode_tokens_per_second"] =
      result.decode_seconds > 0 ? double(result.decode_steps) / result.decode_seconds : 0.0;
  return json;
}

void report_speed(const GenerateResult& result, const CommonOptions& common) {
  if (common.quiet) return;
  std::string line = "pare: " + std::to_string(result.prompt_tokens) + " prompt tokens";
  if (result.prefill_seconds > 0)
    line += " at " + formatted(double(result.prompt_tokens) / result.prefill_seconds, "%.0f") + "/s";
  line += ", " + std::to_string(result.ids.size()) + " new tokens";
  if (result.decode_seconds > 0 && result.decode_steps > 0) {
    line += " at " + formatted(double(result.decode_steps) / result.decode_seconds, "%.1f") + "/s";
  }
  if (const uint64_t bytes = peak_device_bytes(); bytes > 0)
    line += "; " + format_bytes(bytes) + " on the GPU";
  line += std::string("; stopped by ") + stop_reason_name(result.reason) + "\n";
  static_cast<void>(!::write(STDERR_FILENO, line.data(), line.size()));
}

Result<std::vector<int32_t>> encode_prompt(const Options& options, const Tokenizer& tokenizer,
                                           const std::string& prompt) {
  return tokenizer.encode(prompt, {.add_special = true, .parse_special = options.parse_special});
}

Result<Exit> run_model(const Options& options, const CommonOptions& common) {
  PARE_CHECK(start_engine(common));
  PARE_TRY(const std::string prompt, read_prompt(options));
  PARE_CHECK(check_encoding(prompt));
  PARE_TRY(const auto source, open_source(options.model, common));
  std::shared_ptr<const Tokenizer> tokenizer;
  if (options.tokenizer.empty()) {
    PARE_TRY(tokenizer, load_tokenizer(*source));
  } else {
    PARE_TRY(const TokenizerFiles files, tokenizer_files(options.tokenizer));
    PARE_TRY(tokenizer, Tokenizer::load(files));
  }
  PARE_TRY(ModelDescription description, describe_model(*source));
  PARE_TRY(const KvQuant kv, effective_kv(options.kv, *source));
  description.config.kv = kv;
  warn_of_missing_rows(*tokenizer, description.config);
  const int64_t context = options.context > 0 ? options.context : description.config.max_positions;
  const int64_t positions =
      std::min<int64_t>(context, int64_t(prompt.size()) + 1 + options.generate.max_new_tokens);
  PARE_TRY(const Device device, chosen_device(common));
  const uint64_t need = running_bytes(*source) + KvCache::bytes_for(description.config, 1, positions);
  PARE_CHECK(check_memory(common, need, "weights and cache need this much", device));
  PARE_TRY(const std::vector<int32_t> ids, encode_prompt(options, *tokenizer, prompt));
  PARE_TRY(auto session, Session::open(source, tokenizer, device, options.context, kv));
  log_info("running on " + backend_for(device).description());
  const bool filter = !options.raw && ::isatty(STDOUT_FILENO) == 1;
  if (options.echo && !common.json) print(prompt);
  Status written;
  const JobSignalScope stop_gently;  // the first Ctrl-C ends the text, not the program
  auto emit = [&](std::string_view piece) {
    if (!common.json) {
      print(shown(piece, filter));
      written = flush_stdout();
    }
    return bool(written) && !interrupted();
  };
  GenerateOptions generate = options.generate;
  generate.sampler.seed = common.seed;
  generate.stop_at_eos = !options.ignore_eos;
  PARE_TRY(const GenerateResult result, session->generate(ids, generate, emit));
  if (!written) return written.error();
  if (common.json) {
    print_json(to_json(options, result, kv));
  } else {
    print("\n");
    PARE_CHECK(flush_stdout());
  }
  report_speed(result, common);
  return interrupted() ? Exit::aborted : Exit::ok;
}

}  // namespace

void add_run_options(CLI::App* verb, Commands& commands) {
  auto options = std::make_shared<Options>();
  verb->add_option("MODEL", options->model, "what to run")->required();
  verb->add_option("-p,--prompt", options->prompt, "the text to continue")
      ->each([options](const std::string&) { options->has_prompt = true; })
      ->type_name("TEXT");
  verb->add_option("-f,--file", options->file,
                   "file with the text to continue; - is stdin (the default without -p)")
      ->type_name("FILE");
  verb->add_option("-n,--max-tokens", options->generate.max_new_tokens, "most new tokens")
      ->check(CLI::Range(int64_t(0), int64_t(1) << 30))
      ->capture_default_str()
      ->type_name("N");
  SamplerOptions& sampler = options->generate.sampler;
  verb->add_option("--temperature", sampler.temperature,
                   "0 always takes the best token; 1 samples as the model says")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str()
      ->type_name("T");
  verb->add_option("--top-k", sampler.top_k, "sample among the k best; 0 is off")
      ->check(CLI::Range(int64_t(0), int64_t(1) << 30))
      ->capture_default_str()
      ->type_name("K");
  verb->add_option("--top-p", sampler.top_p, "sample among the best that hold this share of probability")
      ->check(CLI::Range(1e-9, 1.0))
      ->capture_default_str()
      ->type_name("P");
  verb->add_option("--min-p", sampler.min_p, "drop tokens below this share of the best one's probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str()
      ->type_name("P");
  verb->add_option("--repetition-penalty", sampler.repetition_penalty, "above 1: less of what was said")
      ->check(CLI::Range(0.01, 100.0))
      ->capture_default_str()
      ->type_name("X");
  verb->add_option("--seed", commands.common().seed, "of the sampler; equal seeds give equal text")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("--stop", options->generate.stop, "end before this text; may be given several times")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->type_name("TEXT");
  verb->add_option("--context", options->context, "positions to make room for (default: the model's)")
      ->check(CLI::Range(int64_t(2), int64_t(1) << 30))
      ->type_name("N");
  add_kv_option(verb, options->kv);
  verb->add_option("--tokenizer", options->tokenizer,
                   "tokenizer.json, or a folder with one, when the model has none")
      ->type_name("PATH");
  verb->add_flag("--ignore-eos", options->ignore_eos, "go on after the end-of-text token");
  verb->add_flag("--parse-special", options->parse_special,
                 "special tokens written in the prompt count as such");
  verb->add_flag("--echo", options->echo, "print the prompt first");
  verb->add_flag("--raw", options->raw, "do not escape control characters on a terminal");
  add_common(verb, commands, true);
  verb->footer(
      "Text goes to stdout as it is made, speed to stderr. Example: pare run model.pare -p 'Once upon a "
      "time' -n 64");
  commands.on(verb, [options, &commands] { return run_model(*options, commands.common()); });
}

void add_run(CLI::App& app, Commands& commands) {
  add_run_options(app.add_subcommand("run", "generate text"), commands);
}

}  // namespace pare::cli
